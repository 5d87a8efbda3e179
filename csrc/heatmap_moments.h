// Mathematics of heatmap_moments that every backend shares; see lmdis_fast/reference/heatmap_moments.py.
#pragma once

#include "lattice.h"
#include "maps.h"

namespace lmdis {

// Mass, mean and central second moments of a part of a heatmap, in pixels from the centre of the image.
struct Moments {
  double mass, x, y, xx, yy, xy;
};

// Both parts together (Chan et al. 1983): no second moment is ever taken about a far point, which loses digits.
LM_FUNCTION Moments merge(const Moments& a, const Moments& b) {
  const double mass = a.mass + b.mass;
  if (mass == 0) return a;
  const double share = b.mass / mass, dx = b.x - a.x, dy = b.y - a.y, between = a.mass * share;
  return {mass,
          a.x + dx * share,
          a.y + dy * share,
          a.xx + b.xx + dx * dx * between,
          a.yy + b.yy + dy * dy * between,
          a.xy + b.xy + dx * dy * between};
}

// The frame of one map: frame units per pixel, width units per frame unit.
struct Frame {
  double step_x, step_y, scale_x, scale_y;
};
LM_FUNCTION Frame frame_of(long height, long width, bool align_corners) {
  const double span_x = double(align_corners ? (width > 1 ? width - 1 : 1) : width);
  const double span_y = double(align_corners ? (height > 1 ? height - 1 : 1) : height);
  return {2 / span_x, 2 / span_y, width_scale(width, height * width, align_corners),
          width_scale(height, height * width, align_corners)};
}

// Coordinates, variances, covariance (in the units of the public operator) of a whole map, divided by `divisor`.
struct Landmark {
  double x, y, xx, yy, xy;
};
LM_FUNCTION Landmark finish(const Moments& m, double divisor, const Frame& f) {
  // about the mean that eps has drawn towards the centre: sum q (u - mu)^2 = central + mass (u_mean - mu)^2
  const double x = m.mass * m.x / divisor, y = m.mass * m.y / divisor, dx = m.x - x, dy = m.y - y;
  const double to_x = f.scale_x * f.step_x, to_y = f.scale_y * f.step_y;
  return {f.step_x * x, f.step_y * y, to_x * to_x * (m.xx + m.mass * dx * dx) / divisor,
          to_y * to_y * (m.yy + m.mass * dy * dy) / divisor, to_x * to_y * (m.xy + m.mass * dx * dy) / divisor};
}

// h(p) = along_x(dx) + along_y(dy) + cross dx dy, the derivative by a pixel's probability, with d in frame units.
struct Slopes {
  double x, xx, x0, y, yy, y0, cross;
};
// `g` holds the upstream gradients in the order of Landmark, `mass` that of the mass; `pull` is eps / divisor.
LM_FUNCTION Slopes slopes_of(const Landmark& g, double mass, const Landmark& at, double divisor, double pull,
                             const Frame& f) {
  const double cross = f.scale_x * f.scale_y * g.xy, rx = pull * at.x, ry = pull * at.y;
  const double xx = f.scale_x * f.scale_x * g.xx, yy = f.scale_y * f.scale_y * g.yy;
  return {(g.x - 2 * rx * xx - ry * cross) / divisor,
          xx / divisor,
          -g.xx * at.xx / divisor,
          (g.y - 2 * ry * yy - rx * cross) / divisor,
          yy / divisor,
          -(g.yy * at.yy + g.xy * at.xy) / divisor + mass,
          cross / divisor};
}
LM_FUNCTION double along_x(const Slopes& s, double dx) { return (s.xx * dx + s.x) * dx + s.x0; }
LM_FUNCTION double along_y(const Slopes& s, double dy) { return (s.yy * dy + s.y) * dy + s.y0; }

enum class Over { channels, pixels, marginals };

struct HeatmapMoments {
  Maps logits;
  Over over;
  int64_t count;  // landmark channels: the first ones
  double temperature, eps;
  bool align_corners;
  int64_t second;                // numbers in variance: 2, or 3 with the covariance
  Dense coords, variance, mass;  // (N, count, 2), (N, count, second), (N, count)
  void* workspace;               // as many bytes as the backend asks for
};

struct HeatmapMomentsBackward {
  HeatmapMoments forward;                               // its outputs are inputs here
  const void *grad_coords, *grad_variance, *grad_mass;  // like the outputs, or null
  Maps grad;                                            // of the logits, in their layout
};

}  // namespace lmdis
