// render_gaussians, splat_landmarks and their backwards on NVIDIA GPUs; see lmdis_fast/ops/gaussian_splat.py.
#include "gaussian_splat.cuh"

#include "backend.h"

#include "../entries/gaussian_splat.h"

namespace lmdis {

STABLE_TORCH_LIBRARY_IMPL(lmdis_fast, CUDA, m) {
  m.impl("render_gaussians", TORCH_BOX(&entries::render_gaussians));
  m.impl("render_gaussians_backward", TORCH_BOX(&entries::render_gaussians_backward));
  m.impl("splat_landmarks", TORCH_BOX(&entries::splat_landmarks));
  m.impl("splat_landmarks_backward", TORCH_BOX(&entries::splat_landmarks_backward));
}

}  // namespace lmdis
