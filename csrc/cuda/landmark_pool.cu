// landmark_pool, gaussian_pool and their backwards on NVIDIA GPUs; see lmdis_fast/ops/landmark_pool.py.
#include "landmark_pool.cuh"

#include "backend.h"

#include "../entries/landmark_pool.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CUDA, m) {
  m.impl("landmark_pool", TORCH_BOX(&entries::landmark_pool));
  m.impl("landmark_pool_backward", TORCH_BOX(&entries::landmark_pool_backward));
  m.impl("gaussian_pool", TORCH_BOX(&entries::gaussian_pool));
  m.impl("gaussian_pool_backward", TORCH_BOX(&entries::gaussian_pool_backward));
}

}  // namespace lmdis
