// Where a warp reads its image: thin-plate splines at output pixels, and the two pixels of the image beside a position
// along each axis.
//
// A position is the output pixel's own place in whole pixels plus what the spline adds, and is never rounded as a
// whole: the identity reads the pixels themselves.
#pragma once

#include "../tps_warp.h"
#include "tile.cuh"

namespace lmdis {

// The splines of a batch; real is what positions are computed in.
template <class real>
struct Plates {
  const real *centers, *weights, *affine, *before;
  int points;
  bool shared;  // one set of centres for all images
};

// An axis: output pixels have their centres at half (2 i - (count - 1)) in the frame, and their own places among
// `source` pixels of the image at (times i + plus) / over, or at i where `over` is 0.
template <class real>
struct WarpAxis {
  int count, source;
  int64_t times, plus, over;
  real half, pixels;  // pixels of the image in a unit of the frame
};
template <class real>
WarpAxis<real> warp_axis(int64_t count, int64_t source, bool align_corners) {
  WarpAxis<real> axis = {int(count), int(source), 2 * source, source - count, 2 * count, real(0), real(0)};
  if (align_corners) axis.times = source - 1, axis.plus = 0, axis.over = count - 1;
  if (align_corners && count == 1) axis.times = 0, axis.plus = source - 1, axis.over = 2;
  if (count == source) axis.over = 0;
  axis.half = real(1 / double(align_corners ? (count > 1 ? count - 1 : 1) : count));
  axis.pixels = real(pixels_per_unit(long(source), align_corners));
  return axis;
}

// Of numbers that are not negative.
LM_DEVICE int64_t quotient(int64_t a, int64_t b) { return (a | b) >> 32 ? a / b : int64_t(uint32_t(a) / uint32_t(b)); }

template <class real>
LM_DEVICE real centre_of(const WarpAxis<real>& axis, int i) {
  return real(2 * i - (axis.count - 1)) * axis.half;
}

// ---- splines -------------------------------------------------------------------------------------------------------
//
// The kernel is r2 log2(r2); the factor ln(2) / 2 goes into the weights, and into their gradients at the end.

constexpr double plate_unit = 0.34657359027997264;

// Added to r2, so that its logarithm exists; it changes no distance that can be told from 0.
template <class real>
constexpr real least_square = sizeof(real) == 8 ? real(1e-290) : real(1e-30);

LM_DEVICE float plate_log2(float x) { return fast_log2(x); }
LM_DEVICE double plate_log2(double x) { return log2(x); }

// Control points that a block has at a time in its shared memory: place and weights of each.
constexpr int control_chunk = 256;
template <class real>
struct Control {
  real x, y, weight_x, weight_y;
};
template <class real>
LM_DEVICE Control<real> control_in(LM_SHARED_POINTER(real) controls, int i) {
  constexpr int V = 16 / sizeof(real);
  real values[4];
#pragma unroll
  for (int k = 0; k < 4; k += V) {
    const Vector<real, V> part = load_shared<V>(controls + (4 * i + k));
#pragma unroll
    for (int j = 0; j < V; ++j) values[k + j] = part[j];
  }
  return {values[0], values[1], values[2], values[3]};
}

template <class real>
LM_DEVICE const real* centers_of(const Plates<real>& plates, int64_t n) {
  return plates.centers + (plates.shared ? 0 : 2 * n * plates.points);
}
template <class real>
LM_DEVICE int chunk_at(const Plates<real>& plates, int first) {
  return plates.points - first < control_chunk ? plates.points - first : control_chunk;
}

// Control points from `first` of image n to shared memory.
template <int threads, class real>
LM_DEVICE void load_controls(const Plates<real>& plates, int64_t n, int first, LM_SHARED_POINTER(real) controls) {
  const real* const centers = centers_of(plates, n) + 2 * int64_t(first);
  const real* const weights = plates.weights + 2 * (n * plates.points + first);
#pragma unroll 1
  for (int i = threadIdx.x; i < 2 * chunk_at(plates, first); i += threads) {
    const int to = i / 2 * 4 + i % 2;
    controls[to] = load(centers + i);
    controls[to + 2] = load(weights + i) * real(plate_unit);
  }
}

LM_DEVICE AffineMap map_at(const float* from) {
  return {load(from), load(from + 1), load(from + 2), load(from + 3), load(from + 4), load(from + 5)};
}
LM_DEVICE AffineMap map_at(const double* from) {
  return {load(from), load(from + 1), load(from + 2), load(from + 3), load(from + 4), load(from + 5)};
}
template <class real>
LM_DEVICE void store_map(LM_SHARED_POINTER(real) to, const AffineMap& m) {
  to[0] = real(m.xx), to[1] = real(m.xy), to[2] = real(m.x0);
  to[3] = real(m.yx), to[4] = real(m.yy), to[5] = real(m.y0);
}
// What moves points without the kernels, from which the identity is taken before it meets one, and the map before.
constexpr int map_numbers = 12;
template <class real>
LM_DEVICE void load_maps(const Plates<real>& plates, int64_t n, LM_SHARED_POINTER(real) maps) {
  AffineMap whole = map_at(plates.affine + 6 * n);
  if (plates.before) {
    const AffineMap before = map_at(plates.before + 6 * n);
    whole = compose(whole, before);
    store_map<real>(maps + 6, before);
  }
  store_map<real>(maps, displacement_of(whole));
}

template <class real>
struct Point {
  real x, y;
};
template <class real>
LM_DEVICE Point<real> mapped(LM_SHARED_POINTER(real) map, const Point<real>& p) {
  const real xx = map[0], xy = map[1], x0 = map[2], yx = map[3], yy = map[4], y0 = map[5];
  return {xx * p.x + xy * p.y + x0, yx * p.x + yy * p.y + y0};
}

// Calls body(a control point) for all of image n, whose first ones are in shared memory already if `loaded`.
template <int threads, class real, class Body>
LM_DEVICE void for_each_control(const Plates<real>& plates, int64_t n, LM_SHARED_POINTER(real) controls, bool loaded,
                                Body body) {
  for (int first = 0; first < plates.points; first += control_chunk) {
    if (first > 0 || !loaded) {
      __syncthreads();
      load_controls<threads>(plates, n, first, controls);
      __syncthreads();
    }
    const int count = chunk_at(plates, first);
#pragma unroll 4
    for (int i = 0; i < count; ++i) body(control_in<real>(controls, i));
  }
}

// ---- pixels of a block ---------------------------------------------------------------------------------------------

// A block has threads x warp_pixels pixels of an image, counted along its rows; each thread's are `threads` apart, so
// that neighbouring threads read and write neighbouring pixels.
constexpr int warp_pixels = 2;

template <class real>
struct WarpPixel {
  int column, row;
  bool inside;  // otherwise it is the last one again
  Point<real> p, q, move;
};
template <int threads, class real>
LM_DEVICE void place_pixels(const Plates<real>& plates, const WarpAxis<real>& along_x, const WarpAxis<real>& along_y,
                            int64_t n, int64_t first, LM_SHARED_POINTER(real) controls, LM_SHARED_POINTER(real) maps,
                            WarpPixel<real> (&pixels)[warp_pixels]) {
  load_controls<threads>(plates, n, 0, controls);
  if (threadIdx.x == threads - 1) load_maps(plates, n, maps);
  __syncthreads();
  const int64_t last = int64_t(along_x.count) * along_y.count - 1;
#pragma unroll
  for (int k = 0; k < warp_pixels; ++k) {
    WarpPixel<real>& pixel = pixels[k];
    const int64_t i = first + k * threads + threadIdx.x, at = i < last ? i : last;
    pixel.inside = i <= last;
    pixel.row = int(quotient(at, along_x.count));
    pixel.column = int(at - int64_t(pixel.row) * along_x.count);
    pixel.p = {centre_of(along_x, pixel.column), centre_of(along_y, pixel.row)};
    pixel.q = plates.before ? mapped<real>(maps + 6, pixel.p) : pixel.p;
    pixel.move = {0, 0};
  }
  for_each_control<threads>(plates, n, controls, true, [&](const Control<real>& c) {
#pragma unroll
    for (int k = 0; k < warp_pixels; ++k) {
      const real dx = pixels[k].q.x - c.x, dy = pixels[k].q.y - c.y;
      const real r2 = dx * dx + (dy * dy + least_square<real>), kernel = r2 * plate_log2(r2);
      pixels[k].move.x += kernel * c.weight_x;
      pixels[k].move.y += kernel * c.weight_y;
    }
  });
#pragma unroll
  for (int k = 0; k < warp_pixels; ++k) {
    const Point<real> shift = mapped<real>(maps, pixels[k].p);
    pixels[k].move.x += shift.x, pixels[k].move.y += shift.y;
  }
}

// ---- neighbours ----------------------------------------------------------------------------------------------------

// The two pixels beside a position, what they count for, and their parts in its slope.
struct Neighbours {
  int first, second;
  float weight[2], slope[2];
};

// Beside pixel i's own place displaced by `move` units of the frame. A position that is not a number keeps its weights
// from being numbers, and has pixels inside the image all the same.
template <class real>
LM_DEVICE Neighbours neighbours(const WarpAxis<real>& axis, int i, real move, bool zeros) {
  int whole = i;
  move *= axis.pixels;
  if (axis.over) {
    const int64_t place = axis.times * i + axis.plus + axis.over;  // above 0, as plus is above -over
    const int64_t times = quotient(place, axis.over);
    whole = int(times) - 1;
    move += real(place - times * axis.over) / real(axis.over);
  }
  const real below = floor(move);
  const float fraction = float(move - below);
  // bounded before the conversion: a NaN or huge position must not become a wild address
  constexpr real far = real(1e9);
  const bool known = move == move;
  const int index = whole + int(known ? (below < -far ? -far : below > far ? far : below) : -far);
  const int last = axis.source - 1;
  Neighbours found;
  found.first = index < 0 ? 0 : index < last ? index : last;
  if (zeros) {
    found.second = index < 0 ? 0 : index < last ? index + 1 : last;
    found.slope[0] = index >= 0 && index <= last ? 1.f : 0.f;
    found.slope[1] = index >= -1 && index < last ? 1.f : 0.f;
    found.weight[0] = (1 - fraction) * found.slope[0];
    found.weight[1] = fraction * found.slope[1];
  } else {
    found.second = known && found.first < last ? found.first + 1 : found.first;
    const bool within = index >= 0 && (index < last || (index == last && fraction == 0.f));
    found.slope[0] = found.slope[1] = within ? 1.f : 0.f;
    found.weight[1] = known && (index < 0 || index >= last) ? 0.f : fraction;
    found.weight[0] = 1 - found.weight[1];
  }
  return found;
}

}  // namespace lmdis
