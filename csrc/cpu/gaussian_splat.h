// Memory that the vector code of render_gaussians and splat_landmarks works in.
#pragma once

#include "../gaussian_splat.h"
#include "bands.h"

namespace lmdis {

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
