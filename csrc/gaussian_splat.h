// Mathematics of render_gaussians and splat_landmarks that every backend shares; see
// lmdis_fast/reference/gaussian_splat.py.
#pragma once

#include "lattice.h"
#include "maps.h"

namespace lmdis {

// Gaussians of one width along one axis: exp(-t(i)^2 / 2) at pixel i, with t(i) = step i + shift the offset in standard
// deviations.
struct GaussianAxis {
  double step, first, per_frame;  // t(0) of a landmark at 0, standard deviations per unit of the frame
};
LM_FUNCTION GaussianAxis gaussian_axis(double sigma, long count, long pixels, bool align_corners) {
  const double per_frame = width_scale(count, pixels, align_corners) / sigma;
  const double step = 2 / double(align_corners ? (count > 1 ? count - 1 : 1) : count);
  return {step * per_frame, pixel_centre(0, count, align_corners) * per_frame, per_frame};
}
LM_FUNCTION double shift_of(const GaussianAxis& axis, double centre) { return axis.first - centre * axis.per_frame; }

// Derivative by a landmark's coordinate of sum_i w_i exp(-t(i)^2 / 2), given sum_i w_i exp(...) offset(i) in width
// units.
LM_FUNCTION double coordinate_gradient(double weighted_offsets, double sigma, double scale) {
  return scale * weighted_offsets / (sigma * sigma);
}

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
  void* workspace;  // as many bytes as the backend asks for
};

}  // namespace lmdis
