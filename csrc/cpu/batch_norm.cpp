// batch_norm_leaky_relu and its backward as torch operators; see lmdis_fast/ops/batch_norm.py.
#include <tuple>

#include "batch_norm.h"

#include "backend.h"

#include "../entries/tensors.h"

namespace lmdis {
namespace {

constexpr const char* kOp = "batch_norm_leaky_relu";

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
  BatchNorm call(double eps, double slope) const {
    check_not_negative(kOp, "eps", eps);
    STD_TORCH_CHECK(slope >= 0 && slope <= 1, kOp, ": slope must be from 0 to 1, got ", slope);
    BatchNorm call{};
    call.x = x.const_data_ptr();
    call.dtype = dtype_of(x);
    call.images = x.size(0), call.channels = x.size(1), call.pixels = x.size(2) * x.size(3);
    call.interleaved = is_channels_last(x) && call.channels > 1;
    call.eps = eps, call.slope = slope;
    call.weight = weight.const_data_ptr(), call.bias = bias.const_data_ptr();
    return call;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_leaky_relu(const Tensor& x, const Tensor& weight,
                                                                 const Tensor& bias, double eps, double slope) {
  const Inputs in(x, weight, bias);
  BatchNorm call = in.call(eps, slope);
  const int64_t channels = call.channels;
  Tensor out = torch::stable::empty_like(in.x);
  Tensor mean = empty(x, {channels}, in.type), rstd = empty(x, {channels}, in.type);
  Tensor variance = empty(x, {channels}, in.type);
  std::vector<char> workspace(size_t(batch_norm_workspace(call)));
  call.out = out.mutable_data_ptr();
  call.mean = mean.mutable_data_ptr(), call.rstd = rstd.mutable_data_ptr();
  call.variance = variance.mutable_data_ptr();
  call.workspace = workspace.data();
  kernels().batch_norm_leaky_relu(call);
  return {cast(out, x.scalar_type()), mean, rstd, variance};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_leaky_relu_backward(const Tensor& grad, const Tensor& x,
                                                                  const Tensor& weight, const Tensor& bias,
                                                                  const Tensor& mean, const Tensor& rstd, double eps,
                                                                  double slope, bool need_x) {
  const Inputs in(x, weight, bias);
  BatchNormBackward call{};
  call.forward = in.call(eps, slope);
  const int64_t channels = call.forward.channels;
  check_shape(kOp, "grad", grad, {x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type());
  check_shape(kOp, "mean", mean, {channels}, in.type);
  check_shape(kOp, "rstd", rstd, {channels}, in.type);
  const Tensor means = dense(mean, in.type), deviations = dense(rstd, in.type);
  // As x lies in memory.
  Tensor upstream = in.x.scalar_type() == grad.scalar_type() ? grad : cast(grad, in.type);
  if (call.forward.interleaved ? !is_channels_last(upstream) : !upstream.is_contiguous()) {
    Tensor alike = torch::stable::empty_like(in.x);
    upstream = torch::stable::copy_(alike, upstream);
  }
  Tensor grad_x = need_x ? torch::stable::empty_like(in.x) : absent(x);
  Tensor grad_weight = empty(x, {channels}, in.type), grad_bias = empty(x, {channels}, in.type);
  std::vector<char> workspace(size_t(batch_norm_workspace(call.forward)));
  call.forward.mean = means.data_ptr(), call.forward.rstd = deviations.data_ptr();
  call.forward.workspace = workspace.data();
  call.grad = upstream.const_data_ptr();
  call.grad_x = need_x ? grad_x.mutable_data_ptr() : nullptr;
  call.grad_weight = grad_weight.mutable_data_ptr(), call.grad_bias = grad_bias.mutable_data_ptr();
  kernels().batch_norm_leaky_relu_backward(call);
  return {cast(grad_x, x.scalar_type()), cast(grad_weight, weight.scalar_type()), cast(grad_bias, bias.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "batch_norm_leaky_relu(Tensor x, Tensor weight, Tensor bias, float eps, float slope)"
      " -> (Tensor out, Tensor mean, Tensor rstd, Tensor variance)");
  m.def(
      "batch_norm_leaky_relu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, "
      "float eps, float slope, bool need_x) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("batch_norm_leaky_relu", TORCH_BOX(&batch_norm_leaky_relu));
  m.impl("batch_norm_leaky_relu_backward", TORCH_BOX(&batch_norm_leaky_relu_backward));
}

}  // namespace lmdis
