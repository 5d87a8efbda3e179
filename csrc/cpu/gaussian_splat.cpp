// render_gaussians, splat_landmarks and their backwards on the CPU; see lmdis_fast/ops/gaussian_splat.py.
#include "backend.h"

#include "../entries/gaussian_splat.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "render_gaussians(Tensor coords, SymInt[] size, float[] sigma, float[] gain, float[]? background, "
      "str normalize, bool align_corners) -> Tensor");
  m.def(
      "render_gaussians_backward(Tensor grad, Tensor coords, float[] sigma, float[] gain, float[]? background, "
      "str normalize, bool align_corners) -> Tensor");
  m.def(
      "splat_landmarks(Tensor coords, Tensor features, SymInt[] size, float[] sigma, float[] gain, "
      "float[] background, bool align_corners) -> Tensor");
  m.def(
      "splat_landmarks_backward(Tensor grad, Tensor coords, Tensor features, float[] sigma, float[] gain, "
      "float[] background, bool align_corners, bool need_coords, bool need_features) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("render_gaussians", TORCH_BOX(&entries::render_gaussians));
  m.impl("render_gaussians_backward", TORCH_BOX(&entries::render_gaussians_backward));
  m.impl("splat_landmarks", TORCH_BOX(&entries::splat_landmarks));
  m.impl("splat_landmarks_backward", TORCH_BOX(&entries::splat_landmarks_backward));
}

}  // namespace lmdis
