// tps_warp and its backward on the CPU; see lmdis_fast/ops/tps_warp.py.
#include "backend.h"

#include "../entries/tps_warp.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "tps_warp(Tensor image, Tensor centers, Tensor weights, Tensor affine, Tensor? before, SymInt[] size, "
      "str padding_mode, bool align_corners) -> Tensor");
  m.def(
      "tps_warp_backward(Tensor grad, Tensor image, Tensor centers, Tensor weights, Tensor affine, Tensor? before, "
      "str padding_mode, bool align_corners, bool need_image, bool need_spline, bool need_centers)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("tps_warp", TORCH_BOX(&entries::tps_warp));
  m.impl("tps_warp_backward", TORCH_BOX(&entries::tps_warp_backward));
}

}  // namespace lmdis
