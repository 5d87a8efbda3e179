// What the vector code of render_gaussians and splat_landmarks is called with.
#pragma once

#include "maps.h"

namespace lmdis {

enum class Normalize { peak, sum, channels };

// splat_landmarks is render_gaussians with features: `maps` then holds their planes after all levels' heatmaps.
struct GaussianSplat {
  Maps maps;  // forward: the result; backward: its gradient
  Normalize normalize;
  bool align_corners;
  int64_t landmarks, levels, features;      // features: 0 without
  const double *sigma, *gain, *background;  // one for each level; background null without
  const void *coords, *vectors;             // (N, K, 2), (N, K+1, S)

  LM_FUNCTION int64_t channels(const GaussianSplat& call) { return call.landmarks + (call.background ? 1 : 0); }
};

struct GaussianSplatBackward {
  GaussianSplat forward;
  bool need_coords, need_vectors;
  Dense grad_coords, grad_vectors;
  void* workspace;  // splat_workspace() bytes
};

// What a band keeps in backward: two numbers for each landmark, and the gradient of the vectors.
LM_FUNCTION int64_t splat_record(const GaussianSplat& call) {
  return 2 * call.landmarks + GaussianSplat::channels(call) * call.features;
}
LM_FUNCTION int64_t splat_band_pixels(const GaussianSplat& call) {
  return band_pixels_keeping(2 * splat_record(call));  // in double
}
LM_FUNCTION int64_t splat_workspace(const GaussianSplatBackward& call) {
  const Maps& maps = call.forward.maps;
  return maps.n * bands_of(maps, splat_band_pixels(call.forward)) * splat_record(call.forward) *
         int64_t(sizeof(double));
}

}  // namespace lmdis
