// Mathematics of tps_warp that every backend shares; see lmdis_fast/reference/tps_warp.py.
#pragma once

#include "lattice.h"
#include "maps.h"

namespace lmdis {

// (x, y) -> (xx x + xy y + x0, yx x + yy y + y0): the order of a (2, 3) tensor.
struct AffineMap {
  double xx, xy, x0, yx, yy, y0;
};
LM_FUNCTION AffineMap compose(const AffineMap& outer, const AffineMap& inner) {
  return {outer.xx * inner.xx + outer.xy * inner.yx,
          outer.xx * inner.xy + outer.xy * inner.yy,
          outer.xx * inner.x0 + outer.xy * inner.y0 + outer.x0,
          outer.yx * inner.xx + outer.yy * inner.yx,
          outer.yx * inner.xy + outer.yy * inner.yy,
          outer.yx * inner.x0 + outer.yy * inner.y0 + outer.y0};
}
// m(p) - p, exactly zero for the identity.
LM_FUNCTION AffineMap displacement_of(const AffineMap& m) { return {m.xx - 1, m.xy, m.x0, m.yx, m.yy - 1, m.y0}; }

// Pixels of the source per unit of the frame along an axis of `source` pixels.
LM_FUNCTION double pixels_per_unit(long source, bool align_corners) {
  return double(source - (align_corners ? 1 : 0)) / 2;
}

// Where output pixel `index` of `count` reads if nothing is displaced, in pixels of the source: its own place, exactly,
// when the sizes agree.
LM_FUNCTION double base_position(long index, long count, long source, bool align_corners) {
  if (count == source) return double(index);
  if (!align_corners) return (double(2 * index + 1) * double(source) / double(count) - 1) / 2;
  return count > 1 ? double(index) * (double(source - 1) / double(count - 1)) : double(source - 1) / 2;
}

struct TpsWarp {
  Maps image, out;                         // (N, C, H, W), (N, C, H', W'); backward: `out` is the upstream gradient
  Dense centers, weights, affine, before;  // (P, 2) or (N, P, 2), (N, P, 2), (N, 2, 3), (N, 2, 3) or null
  bool exact;                              // these, and positions, are double instead of float
  bool shared;                             // one set of centres for all images
  int64_t points;
  bool zeros, align_corners;
  void* workspace;  // as many bytes as the backend asks for
};

struct TpsWarpBackward {
  TpsWarp forward;
  bool need_image;
  bool repeatable;  // the image's gradient has the same bits each time, as it always has on the CPU
  Maps grad_image;  // like the image; zero at first if float or double, but where it is repeatable
  bool need_spline, need_centers;
  Dense grad_centers, grad_weights, grad_affine, grad_before;  // like the tensors, in their arithmetic type
  void* sums;                                                  // as many bytes as the backend asks for
};

}  // namespace lmdis
