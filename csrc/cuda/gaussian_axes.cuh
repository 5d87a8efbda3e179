// Gaussians along one axis of a map, whose products are the Gaussians of the map. All is about the pixel nearest to the
// point, so that points far outside the frame keep their digits.
#pragma once

#include "../lattice.h"
#include "reduce.cuh"

namespace lmdis {

// An axis: pixels, width units between two, frame units of half of one, width units in one of the frame.
struct AxisFrame {
  int length;
  float pitch, half, scale;
};
inline AxisFrame axis_frame(int64_t length, int64_t pixels, bool align_corners) {
  const double half = 1 / double(align_corners ? (length > 1 ? length - 1 : 1) : length);
  const double scale = width_scale(long(length), long(pixels), align_corners);
  return {int(length), float(2 * half * scale), float(half), float(scale)};
}

// A point on an axis: the nearest pixel, its offset in width units, and log2(e) / (2 sigma^2).
struct AxisPoint {
  float nearest, lead, precision;
};
// 1 / sigma^2 in units of the precision.
constexpr float inverse_square = 1.3862943611198906f;
LM_DEVICE float precision_of(float sigma) { return 1 / (inverse_square * sigma * sigma); }

LM_DEVICE AxisPoint axis_point(const AxisFrame& axis, float point, float precision) {
  const float nearest =
      fminf(fmaxf(floorf(point / (2 * axis.half) + 0.5f * float(axis.length)), 0.f), float(axis.length - 1));
  return {nearest, axis.scale * (axis.half * (2 * nearest - float(axis.length - 1)) - point), precision};
}
// Offset of pixel i from the nearest one, and by how much its squared offset from the point exceeds that one's.
LM_DEVICE float offset_of(const AxisFrame& axis, const AxisPoint& p, int i) {
  return axis.pitch * (float(i) - p.nearest);
}
LM_DEVICE float excess_of(const AxisPoint& p, float offset) { return offset * (offset + 2 * p.lead); }
LM_DEVICE float weight_of(const AxisPoint& p, float excess) { return exp2f(-p.precision * excess); }

// A softmax along an axis: the inverse of its total, and the means of the offset and of the excess.
struct AxisMean {
  float inverse, offset, excess;
};
// A whole warp calls it.
LM_DEVICE AxisMean axis_mean(const AxisFrame& axis, const AxisPoint& p) {
  float total = 0, mean = 0, square = 0;
  for (int i = threadIdx.x % 32; i < axis.length; i += 32) {
    const float offset = offset_of(axis, p, i), excess = excess_of(p, offset), weight = weight_of(p, excess);
    total += weight;
    mean += weight * offset;
    square += weight * excess;
  }
  const float inverse = 1 / warp_sum(total);
  return {inverse, warp_sum(mean) * inverse, warp_sum(square) * inverse};
}

}  // namespace lmdis
