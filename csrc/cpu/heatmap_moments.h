// Memory that the vector code of heatmap_moments works in.
#pragma once

#include "../heatmap_moments.h"
#include "bands.h"

namespace lmdis {

// Bytes: the moments of every band.
LM_FUNCTION int64_t heatmap_moments_workspace(const HeatmapMoments& call) {
  return call.logits.n * bands_of(call.logits) * call.count * int64_t(6 * sizeof(double));
}

}  // namespace lmdis
