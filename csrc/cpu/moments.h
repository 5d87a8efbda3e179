// From marginals to moments, and from gradients of moments to tables along each axis.
#pragma once

#include "../heatmap_moments.h"
#include "heatmap_moments.h"
#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// Moments of a band from its marginals; `u` and `v` hold the pixels' offsets from the centre of the image.
template <class A>
static Moments moments_of(const A* columns, const A* u, int64_t width, const A* rows, const A* v, int64_t height,
                          const A* firsts) {
  const auto weighted = [](const A* weight, const A* at, int64_t count, A centre, A& mass, A& first, A& second) {
    const int V = lanes<A>::count;
    vec<A> m{}, f{}, s{};
    int64_t i = 0;
    for (; i < count; i += V) {
      const int some = count - i < V ? int(count - i) : V;
      const vec<A> w = some < V ? load_some(weight + i, some) : load(weight + i);
      const vec<A> d = (some < V ? load_some(at + i, some) : load(at + i)) - centre;
      m += w, f += w * d, s += w * d * d;
    }
    mass = sum_lanes<A>(m), first = sum_lanes<A>(f), second = sum_lanes<A>(s);
  };
  A mass, first_x, first_y, xx, yy, other;
  weighted(columns, u, width, 0, mass, first_x, other);
  if (mass == 0) return {0, 0, 0, 0, 0, 0};
  const double x = double(first_x) / mass;
  weighted(columns, u, width, A(x), mass, other, xx);
  weighted(rows, v, height, 0, mass, first_y, other);
  const double y = double(first_y) / mass;
  weighted(rows, v, height, A(y), mass, other, yy);
  double xy = 0;
  if (firsts)
    for (int64_t i = 0; i < height; ++i) xy += (double(v[i]) - y) * (double(firsts[i]) - x * double(rows[i]));
  return {double(mass), x, y, double(xx), double(yy), xy};
}

template <class A>
LM_FUNCTION void offsets_from_centre(int64_t first, int64_t rows, int64_t count, A* out) {
  for (int64_t i = 0; i < rows; ++i) out[i] = A(double(2 * (first + i) - (count - 1)) / 2);
}

template <class A>
LM_FUNCTION void write_landmark(const HeatmapMoments& call, int64_t landmark, const Landmark& found, double mass) {
  A* coords = static_cast<A*>(call.coords) + 2 * landmark;
  A* variance = static_cast<A*>(call.variance) + call.second * landmark;
  coords[0] = A(found.x), coords[1] = A(found.y);
  variance[0] = A(found.xx), variance[1] = A(found.yy);
  if (call.second == 3) variance[2] = A(found.xy);
  static_cast<A*>(call.mass)[landmark] = A(mass);
}

template <class A>
LM_FUNCTION Slopes slopes_at(const HeatmapMomentsBackward& call, int64_t landmark, const Frame& frame) {
  const HeatmapMoments& f = call.forward;
  const A *coords = static_cast<const A*>(f.coords) + 2 * landmark, *grad = static_cast<const A*>(call.grad_coords);
  const A* variance = static_cast<const A*>(f.variance) + f.second * landmark;
  const A* grad_variance = static_cast<const A*>(call.grad_variance);
  const A *mass = static_cast<const A*>(f.mass) + landmark, *grad_mass = static_cast<const A*>(call.grad_mass);
  const bool correlated = f.second == 3 && f.over != Over::marginals;
  Landmark at{coords[0], coords[1], variance[0], variance[1], correlated ? variance[2] : 0}, g{};
  if (grad) g.x = grad[2 * landmark], g.y = grad[2 * landmark + 1];
  if (grad_variance) {
    g.xx = grad_variance[f.second * landmark], g.yy = grad_variance[f.second * landmark + 1];
    if (correlated) g.xy = grad_variance[3 * landmark + 2];
  }
  const bool channels = f.over == Over::channels;
  const double divisor = channels ? *mass + f.eps : 1;
  return slopes_of(g, channels && grad_mass ? grad_mass[landmark] : 0, at, divisor, channels ? f.eps / divisor : 0,
                   frame);
}

// h(x, y) = x_part[x] + y_part[y] + cross[y] dx[x] of one channel, on `padded` columns and `height` rows from `y0`.
template <class A>
LM_FUNCTION void derivative_tables(const Slopes& s, const Frame& frame, double x, double y, int64_t width,
                                   int64_t padded, int64_t y0, int64_t height, int64_t all_rows, A* x_part, A* dx,
                                   A* y_part, A* cross) {
  for (int64_t i = 0; i < padded; ++i) {
    const double d = frame.step_x * (double(2 * i - (width - 1)) / 2) - x;
    x_part[i] = A(along_x(s, d));
    if (dx) dx[i] = A(d);
  }
  for (int64_t i = 0; i < height; ++i) {
    const double d = frame.step_y * (double(2 * (y0 + i) - (all_rows - 1)) / 2) - y;
    y_part[i] = A(along_y(s, d));
    if (cross) cross[i] = A(s.cross * d);
  }
}

}  // namespace LM_ISA
}  // namespace lmdis
