// heatmap_moments and its backward on NVIDIA GPUs; see lmdis_fast/ops/heatmap_moments.py.
#include "heatmap_moments.cuh"

#include "backend.h"

#include "../entries/heatmap_moments.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CUDA, m) {
  m.impl("heatmap_moments", TORCH_BOX(&entries::heatmap_moments));
  m.impl("heatmap_moments_backward", TORCH_BOX(&entries::heatmap_moments_backward));
}

}  // namespace lmdis
