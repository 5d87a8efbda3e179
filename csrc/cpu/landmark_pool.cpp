// landmark_pool, gaussian_pool and their backwards on the CPU; see lmdis_fast/ops/landmark_pool.py.
#include "backend.h"

#include "../entries/landmark_pool.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_FRAGMENT(lmdis_fast, m) {
  m.def(
      "landmark_pool(Tensor features, Tensor logits, str over, float temperature, float eps)"
      " -> (Tensor pooled, Tensor mass)");
  m.def(
      "landmark_pool_backward(Tensor? grad_pooled, Tensor? grad_mass, Tensor features, Tensor logits, Tensor pooled, "
      "Tensor mass, str over, float temperature, float eps, bool need_features, bool need_logits) -> (Tensor, Tensor)");
  m.def("gaussian_pool(Tensor features, Tensor coords, Tensor sigma, bool align_corners) -> Tensor");
  m.def(
      "gaussian_pool_backward(Tensor grad, Tensor features, Tensor coords, Tensor sigma, bool align_corners, "
      "bool need_features, bool need_landmarks) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CPU, m) {
  m.impl("landmark_pool", TORCH_BOX(&entries::landmark_pool));
  m.impl("landmark_pool_backward", TORCH_BOX(&entries::landmark_pool_backward));
  m.impl("gaussian_pool", TORCH_BOX(&entries::gaussian_pool));
  m.impl("gaussian_pool_backward", TORCH_BOX(&entries::gaussian_pool_backward));
}

}  // namespace lmdis
