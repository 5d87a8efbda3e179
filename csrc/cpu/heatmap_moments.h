// What the vector code of heatmap_moments is called with.
#pragma once

#include "maps.h"

namespace lmdis {

enum class Over { channels, pixels, marginals };

struct HeatmapMoments {
  Maps logits;
  Over over;
  int64_t count;  // landmark channels: the first ones
  double temperature, eps;
  bool align_corners;
  int64_t second;                // numbers in variance: 2, or 3 with the covariance
  Dense coords, variance, mass;  // (N, count, 2), (N, count, second), (N, count)
  void* workspace;               // heatmap_moments_workspace() bytes; forward only
};

struct HeatmapMomentsBackward {
  HeatmapMoments forward;                               // its outputs are inputs here
  const void *grad_coords, *grad_variance, *grad_mass;  // like the outputs, or null
  Maps grad;                                            // of the logits, in their layout
};

// Bytes: the moments of every band.
LM_FUNCTION int64_t heatmap_moments_workspace(const HeatmapMoments& call) {
  return call.logits.n * bands_of(call.logits) * call.count * int64_t(6 * sizeof(double));
}

}  // namespace lmdis
