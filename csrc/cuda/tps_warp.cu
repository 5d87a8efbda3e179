// tps_warp and its backward on NVIDIA GPUs; see lmdis_fast/ops/tps_warp.py.
#include "tps_warp.cuh"

#include "backend.h"

#include "../entries/tps_warp.h"

namespace lmdis {

// Where deterministic algorithms are asked for; of other backends tps_warp_backward is so by itself.
STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "tps_warp_backward_repeatable(Tensor grad, Tensor image, Tensor centers, Tensor weights, Tensor affine, "
      "Tensor? before, str padding_mode, bool align_corners, bool need_image, bool need_spline, bool need_centers)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CUDA, m) {
  m.impl("tps_warp", TORCH_BOX(&entries::tps_warp));
  m.impl("tps_warp_backward", TORCH_BOX(&entries::tps_warp_backward));
  m.impl("tps_warp_backward_repeatable", TORCH_BOX(&entries::tps_warp_backward_repeatable));
}

}  // namespace lmdis
