// Memory that the vector code of landmark_pool and gaussian_pool works in.
#pragma once

#include "../landmark_pool.h"
#include "bands.h"

namespace lmdis {

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
