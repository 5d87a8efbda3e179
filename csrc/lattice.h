// The frame that points, widths and pixels share; see lmdis_fast/reference/lattice.py.
#pragma once

#include "portable.h"

namespace lmdis {

// Centre of pixel `index` of `count` in [-1, 1]. The numerator is an exact integer.
LM_FUNCTION double pixel_centre(long index, long count, bool align_corners) {
  const double numerator = double(2 * index - (count - 1));
  return align_corners ? numerator / double(count > 1 ? count - 1 : 1) : numerator / double(count);
}

// Width units per unit of the frame along an axis of `count` pixels, in a map of `pixels` pixels.
LM_FUNCTION double width_scale(long count, long pixels, bool align_corners) {
  return double(count - (align_corners ? 1 : 0)) / __builtin_sqrt(double(pixels));
}

}  // namespace lmdis
