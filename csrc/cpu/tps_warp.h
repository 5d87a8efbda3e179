// Memory that the vector code of tps_warp works in.
#pragma once

#include "../tps_warp.h"
#include "bands.h"

namespace lmdis {

// An output image is cut into this many bands of rows at most, each with its own part of every sum.
constexpr int tps_warp_most_bands = 32;

// Numbers that an image's gradients are: weights, centres, affine, before.
LM_FUNCTION int64_t tps_warp_gradients(int64_t points) { return 4 * points + 12; }

// Bytes: the splines as the vector code reads them, and two tables along a row.
LM_FUNCTION int64_t tps_warp_workspace(const TpsWarp& call) {
  const int64_t splines = call.image.n * (4 * call.points + 12) + 2 * call.points;
  return (splines + 2 * (call.out.w + 64)) * int64_t(sizeof(double)) + 16 * 64;
}
LM_FUNCTION int64_t tps_warp_sums(const TpsWarp& call) {
  const int64_t bands = call.out.h < tps_warp_most_bands ? call.out.h : tps_warp_most_bands;
  return bands * call.image.n * tps_warp_gradients(call.points) * int64_t(sizeof(double));
}

}  // namespace lmdis
