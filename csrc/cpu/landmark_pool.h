// What the vector code of landmark_pool and gaussian_pool is called with.
#pragma once

#include "maps.h"

namespace lmdis {

struct LandmarkPool {
  Maps features, logits;  // of one dtype
  bool over_pixels;
  double temperature, eps;
  Dense pooled, mass;  // (N, C, S), (N, C)
  void* workspace;     // landmark_pool_workspace() bytes
};

struct LandmarkPoolBackward {
  LandmarkPool forward;                 // its outputs are inputs here
  const void *grad_pooled, *grad_mass;  // like the outputs, or null
  bool need_features, need_logits;
  Maps grad_features, grad_logits;
};

struct GaussianPool {
  Maps features;
  int64_t landmarks;
  const void *coords, *sigma;  // (N, K, 2), (N, K)
  bool align_corners;
  Dense pooled;     // (N, K, S)
  void* workspace;  // landmark_pool_workspace() bytes
};

struct GaussianPoolBackward {
  GaussianPool forward;
  const void* grad;  // (N, K, S)
  bool need_features, need_landmarks;
  Maps grad_features;
  Dense grad_coords, grad_sigma;
};

LM_FUNCTION int64_t pool_band_pixels(const LandmarkPool& call) {
  return band_pixels_keeping(call.logits.c * (call.features.c + 3));
}
LM_FUNCTION int64_t pool_band_pixels(const GaussianPool& call) {
  const Maps& f = call.features;
  return band_pixels_keeping(call.landmarks * (f.c > f.w ? f.c : f.w));
}

// Numbers of the arithmetic type. Forward and backward of landmark_pool: for each band and channel the sums of the
// features, of the weights, and the maximum and sum of exponentials where the softmax runs over pixels.
LM_FUNCTION int64_t pool_workspace(const LandmarkPool& call) {
  return call.logits.n * bands_of(call.logits, pool_band_pixels(call)) * call.logits.c * (call.features.c + 3);
}
// gaussian_pool: the sums of the features for each band; backward: column sums for each band, and all row sums.
LM_FUNCTION int64_t pool_workspace(const GaussianPool& call) {
  return call.features.n * bands_of(call.features, pool_band_pixels(call)) * call.landmarks * call.features.c;
}
LM_FUNCTION int64_t pool_workspace(const GaussianPoolBackward& call) {
  const Maps& f = call.forward.features;
  return f.n * call.forward.landmarks * (bands_of(f, pool_band_pixels(call.forward)) * f.w + f.h);
}

}  // namespace lmdis
