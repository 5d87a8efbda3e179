// max_pool_2x2 and upsample_add and their backwards as torch operators; see lmdis_fast/ops/resampling.py.
#include "resampling.h"

#include "backend.h"
#include "halved_tensors.h"

namespace lmdis {
namespace {

constexpr const char* kPool = "max_pool_2x2";
constexpr const char* kUpsample = "upsample_add";

bool is_interleaved(const Tensor& dense) { return !dense.is_contiguous() && is_channels_last(dense); }

// `larger` is dense.
HalvedMaps halved(const Tensor& larger) {
  return {dtype_of(larger), is_interleaved(larger), larger.size(0), larger.size(1), larger.size(2), larger.size(3)};
}
void check_windows(const Tensor& x) {
  check_maps(kPool, "x", x, "(N, C, H, W)");
  STD_TORCH_CHECK(x.size(2) >= 2 && x.size(3) >= 2, kPool,
                  ": x must be (N, C, H, W) with at least 2 rows and 2 columns, got ", described(x));
}

Tensor max_pool_2x2(const Tensor& x) {
  check_windows(x);
  const Tensor maps = dense_maps(x, x.scalar_type());
  MaxPool call{halved(maps), maps.const_data_ptr(), nullptr};
  Tensor out = empty_halved(maps, call.maps);
  call.out = out.mutable_data_ptr();
  kernels().max_pool_2x2(call);
  return out;
}

Tensor max_pool_2x2_backward(const Tensor& grad, const Tensor& x) {
  check_windows(x);
  const Tensor maps = dense_maps(x, x.scalar_type());
  MaxPoolBackward call{halved(maps), maps.const_data_ptr(), nullptr, nullptr};
  check_shape(kPool, "grad", grad, shape_of(call.maps), x.scalar_type());
  const Tensor upstream = torch::stable::contiguous(grad, format_of(call.maps));
  Tensor grad_x = torch::stable::empty_like(maps);
  call.grad = upstream.const_data_ptr(), call.grad_x = grad_x.mutable_data_ptr();
  kernels().max_pool_2x2_backward(call);
  return grad_x;
}

Tensor upsample_add(const Tensor& x, const Tensor& skip) {
  check_maps(kUpsample, "x", x, "(N, C, H, W)");
  check_shape(kUpsample, "skip", skip, {x.size(0), x.size(1), 2 * x.size(2), 2 * x.size(3)}, x.scalar_type());
  const Tensor larger = dense_maps(skip, skip.scalar_type());
  UpsampleAdd call{halved(larger), nullptr, larger.const_data_ptr(), nullptr};
  const Tensor maps = torch::stable::contiguous(x, format_of(call.maps));
  Tensor out = torch::stable::empty_like(larger);
  call.x = maps.const_data_ptr(), call.out = out.mutable_data_ptr();
  kernels().upsample_add(call);
  return out;
}

Tensor upsample_add_backward(const Tensor& grad) {
  check_maps(kUpsample, "grad", grad, "(N, C, 2H, 2W)");
  STD_TORCH_CHECK(grad.size(2) % 2 == 0 && grad.size(3) % 2 == 0, kUpsample, ": grad must be (N, C, 2H, 2W), got ",
                  described(grad));
  const Tensor larger = dense_maps(grad, grad.scalar_type());
  UpsampleAddBackward call{halved(larger), larger.const_data_ptr(), nullptr};
  Tensor grad_x = empty_halved(larger, call.maps);
  call.grad_x = grad_x.mutable_data_ptr();
  kernels().upsample_add_backward(call);
  return grad_x;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def("max_pool_2x2(Tensor x) -> Tensor");
  m.def("max_pool_2x2_backward(Tensor grad, Tensor x) -> Tensor");
  m.def("upsample_add(Tensor x, Tensor skip) -> Tensor");
  m.def("upsample_add_backward(Tensor grad) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("max_pool_2x2", TORCH_BOX(&max_pool_2x2));
  m.impl("max_pool_2x2_backward", TORCH_BOX(&max_pool_2x2_backward));
  m.impl("upsample_add", TORCH_BOX(&upsample_add));
  m.impl("upsample_add_backward", TORCH_BOX(&upsample_add_backward));
}

}  // namespace lmdis
