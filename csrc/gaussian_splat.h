// Mathematics of render_gaussians and splat_landmarks that every backend shares; see
// lmdis_fast/reference/gaussian_splat.py.
#pragma once

#include "lattice.h"

namespace lmdis {

// A Gaussian along one axis, exp(-t(i)^2 / 2) with t(i) = step i + shift at pixel i: the offset in standard deviations.
struct GaussianAxis {
  double step, shift;
};
LM_FUNCTION GaussianAxis gaussian_axis(double centre, double sigma, long count, long pixels, bool align_corners) {
  const double per_frame = width_scale(count, pixels, align_corners) / sigma;
  const double first = pixel_centre(0, count, align_corners);
  const double step = 2 / double(align_corners ? (count > 1 ? count - 1 : 1) : count);
  return {step * per_frame, (first - centre) * per_frame};
}

// Derivative by a landmark's coordinate of sum_i w_i exp(-t(i)^2 / 2), given sum_i w_i exp(...) offset(i) in width
// units.
LM_FUNCTION double coordinate_gradient(double weighted_offsets, double sigma, double scale) {
  return scale * weighted_offsets / (sigma * sigma);
}

}  // namespace lmdis
