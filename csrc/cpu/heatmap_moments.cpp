// heatmap_moments and its backward on the CPU; see lmdis_fast/ops/heatmap_moments.py.
#include "backend.h"

#include "../entries/heatmap_moments.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "heatmap_moments(Tensor logits, str over, bool background, float temperature, bool align_corners, float eps, "
      "bool covariance) -> (Tensor coords, Tensor variance, Tensor mass)");
  m.def(
      "heatmap_moments_backward(Tensor? grad_coords, Tensor? grad_variance, Tensor? grad_mass, Tensor logits, "
      "Tensor coords, Tensor variance, Tensor mass, str over, bool background, float temperature, "
      "bool align_corners, float eps) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("heatmap_moments", TORCH_BOX(&entries::heatmap_moments));
  m.impl("heatmap_moments_backward", TORCH_BOX(&entries::heatmap_moments_backward));
}

}  // namespace lmdis
