// batch_norm_leaky_relu and its backward as torch operators; see lmdis_fast/ops/batch_norm.py.
#include <tuple>

#include "batch_norm.h"

#include "backend.h"
#include "halved_tensors.h"

namespace lmdis {
namespace {

constexpr const char* kOp = "batch_norm_leaky_relu";

std::vector<int64_t> result_shape(const BatchNorm& call) {
  const HalvedMaps result = windows_of(call);
  return {result.images, result.channels, result.height, result.width};
}

struct Inputs {
  ScalarType type;
  Tensor x, weight, bias;
  Inputs(const Tensor& maps, const Tensor& w, const Tensor& b) : type(arithmetic_type({&maps, &w, &b})) {
    check_maps(kOp, "x", maps, "(N, C, H, W)");
    check_floating(kOp, "weight", w, "(C,)", 1);
    check_floating(kOp, "bias", b, "(C,)", 1);
    const int64_t channels = maps.size(1);
    STD_TORCH_CHECK(w.size(0) == channels && b.size(0) == channels, kOp, ": weight and bias must be (C,) for x ",
                    described(maps), ", got ", described(w), " and ", described(b));
    x = dense_maps(maps, type);
    weight = dense(w, type);
    bias = dense(b, type);
  }
  BatchNorm call(double eps, double slope, bool upsample) const {
    check_not_negative(kOp, "eps", eps);
    STD_TORCH_CHECK(slope >= 0 && slope <= 1, kOp, ": slope must be from 0 to 1, got ", slope);
    BatchNorm call{};
    call.x = x.const_data_ptr();
    call.dtype = dtype_of(x);
    call.images = x.size(0), call.channels = x.size(1), call.height = x.size(2), call.width = x.size(3);
    call.interleaved = is_channels_last(x) && call.channels > 1;
    // One pixel, or none, is laid out either way; results of another size are not.
    if (call.images == 0 || (upsample && pixels_of(call) == 1)) call.interleaved = false;
    call.eps = eps, call.slope = slope, call.upsampled = upsample;
    call.weight = weight.const_data_ptr(), call.bias = bias.const_data_ptr();
    return call;
  }
  Tensor empty_result(const BatchNorm& call) const {
    return torch::stable::empty(result_shape(call), x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                format_of(windows_of(call)));
  }
  // In the dtype and layout of x as the call has it: itself, or a copy.
  Tensor alike(const Tensor& tensor, const BatchNorm& call) const {
    return torch::stable::contiguous(cast(tensor, x.scalar_type()), format_of(windows_of(call)));
  }
};

void check_even(const Tensor& x) {
  STD_TORCH_CHECK(x.size(2) % 2 == 0 && x.size(3) % 2 == 0, kOp,
                  ": x must have an even height and width with low or pool, got ", described(x));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_norm_leaky_relu(const Tensor& x, const Tensor& weight,
                                                                         const Tensor& bias, std::optional<Tensor> low,
                                                                         double eps, double slope, bool pool,
                                                                         bool upsample) {
  const Inputs in(x, weight, bias);
  BatchNorm call = in.call(eps, slope, upsample);
  const int64_t channels = call.channels;
  std::optional<Tensor> lower;
  call.in_windows = low.has_value() || pool;
  STD_TORCH_CHECK(!(upsample && call.in_windows), kOp, ": upsample goes with neither low nor pool");
  Tensor out = upsample ? in.empty_result(call) : torch::stable::empty_like(in.x);
  if (call.in_windows) check_even(x);
  if (low) {
    check_shape(kOp, "low", *low, shape_of(windows_of(call)), x.scalar_type());
    lower = in.alike(*low, call);
    call.low = lower->const_data_ptr();
  }
  Tensor pooled = pool ? empty_halved(in.x, windows_of(call)) : absent(x);
  if (pool) call.pooled = pooled.mutable_data_ptr();
  Tensor mean = empty(x, {channels}, in.type), rstd = empty(x, {channels}, in.type);
  Tensor variance = empty(x, {channels}, in.type);
  std::vector<char> workspace(size_t(batch_norm_workspace(call)));
  call.out = out.mutable_data_ptr();
  call.mean = mean.mutable_data_ptr(), call.rstd = rstd.mutable_data_ptr();
  call.variance = variance.mutable_data_ptr();
  call.workspace = workspace.data();
  kernels().batch_norm_leaky_relu(call);
  return {cast(out, x.scalar_type()), cast(pooled, x.scalar_type()), mean, rstd, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_leaky_relu_backward(
    std::optional<Tensor> grad, std::optional<Tensor> grad_pooled, const Tensor& x, const Tensor& weight,
    const Tensor& bias, const Tensor& mean, const Tensor& rstd, std::optional<Tensor> out, double eps, double slope,
    bool upsample, bool need_x, bool need_low) {
  const Inputs in(x, weight, bias);
  BatchNormBackward call{};
  call.forward = in.call(eps, slope, upsample);
  const int64_t channels = call.forward.channels;
  STD_TORCH_CHECK(grad || grad_pooled, kOp, ": grad or grad_pooled must be a tensor");
  STD_TORCH_CHECK(!grad_pooled || out, kOp, ": out must be a tensor with grad_pooled");
  call.forward.in_windows = grad_pooled.has_value() || need_low;
  STD_TORCH_CHECK(!(upsample && call.forward.in_windows), kOp, ": upsample goes with neither low nor pool");
  if (grad) check_shape(kOp, "grad", *grad, result_shape(call.forward), x.scalar_type());
  if (call.forward.in_windows) check_even(x);
  if (grad_pooled) {
    check_shape(kOp, "grad_pooled", *grad_pooled, shape_of(windows_of(call.forward)), x.scalar_type());
    check_shape(kOp, "out", *out, shape_of(x), x.scalar_type());
  }
  check_shape(kOp, "mean", mean, {channels}, in.type);
  check_shape(kOp, "rstd", rstd, {channels}, in.type);
  const Tensor means = dense(mean, in.type), deviations = dense(rstd, in.type);
  std::optional<Tensor> upstream, of_pooled, maxima;
  if (grad) upstream = in.alike(*grad, call.forward);
  if (grad_pooled) {
    of_pooled = in.alike(*grad_pooled, call.forward), maxima = in.alike(*out, call.forward);
    call.forward.out = const_cast<void*>(maxima->const_data_ptr());
  }
  Tensor grad_x = need_x ? torch::stable::empty_like(in.x) : absent(x);
  const bool gathered = grad_pooled.has_value() || upsample;
  const Tensor total = gathered && !need_x ? torch::stable::empty_like(in.x) : grad_x;
  Tensor grad_low = need_low ? empty_halved(in.x, windows_of(call.forward)) : absent(x);
  Tensor grad_weight = empty(x, {channels}, in.type), grad_bias = empty(x, {channels}, in.type);
  std::vector<char> workspace(size_t(batch_norm_workspace(call.forward)));
  call.forward.mean = means.data_ptr(), call.forward.rstd = deviations.data_ptr();
  call.forward.workspace = workspace.data();
  call.grad = pointer(upstream), call.grad_pooled = pointer(of_pooled);
  call.grad_x = need_x ? grad_x.mutable_data_ptr() : nullptr;
  if (gathered) call.total = total.mutable_data_ptr();
  if (need_low) call.grad_low = grad_low.mutable_data_ptr();
  call.grad_weight = grad_weight.mutable_data_ptr(), call.grad_bias = grad_bias.mutable_data_ptr();
  kernels().batch_norm_leaky_relu_backward(call);
  return {cast(grad_x, x.scalar_type()), cast(grad_weight, weight.scalar_type()), cast(grad_bias, bias.scalar_type()),
          cast(grad_low, x.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "batch_norm_leaky_relu(Tensor x, Tensor weight, Tensor bias, Tensor? low, float eps, float slope, bool pool, "
      "bool upsample)"
      " -> (Tensor out, Tensor pooled, Tensor mean, Tensor rstd, Tensor variance)");
  m.def(
      "batch_norm_leaky_relu_backward(Tensor? grad, Tensor? grad_pooled, Tensor x, Tensor weight, Tensor bias, "
      "Tensor mean, Tensor rstd, Tensor? out, float eps, float slope, bool upsample, bool need_x, bool need_low)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("batch_norm_leaky_relu", TORCH_BOX(&batch_norm_leaky_relu));
  m.impl("batch_norm_leaky_relu_backward", TORCH_BOX(&batch_norm_leaky_relu_backward));
}

}  // namespace lmdis
