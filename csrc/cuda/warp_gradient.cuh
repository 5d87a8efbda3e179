// Gradients of warps. A block recomputes the positions of its pixels. Sums over them for the spline go through memory:
// there a thread takes a control point and walks pixels. A second kernel adds the blocks' sums in double.
//
// The image's own gradient needs atomics: in float, or, to be the same bits each time, in whole multiples of a unit,
// whose sums have no order. The unit depends on the largest upstream gradient, which another kernel finds.
#pragma once

#include "bilinear.cuh"
#include "reduce.cuh"

namespace lmdis {

constexpr int gradient_threads = 256, gradient_tile = gradient_threads * warp_pixels;
// Largest gradients of parts of the batch: one for each thread of a block that reads them.
constexpr int largest_parts = gradient_threads;

// Where the image's gradient is summed: in float, or in whole numbers if there are `largest` gradients, the largest of
// which then counts `most`. Strides are those of the gradient itself.
struct ImageSums {
  void* data;  // null if it was not asked for
  int64_t stride_n, stride_c, stride_h, stride_w;
  const float* largest;
  double most;
};
// Sums of whole numbers stay below a quarter of this; what is not finite raises its pixel to it.
constexpr long long not_a_number = 1LL << 62;

// The value of 1 in a sum of whole numbers. Shared memory: a number for each warp.
LM_DEVICE double unit_of(const ImageSums& sums, LM_SHARED_POINTER(float) scratch) {
  const float mine = warp_max(load(sums.largest + threadIdx.x));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = mine;
  __syncthreads();
  float peak = 0;
  for (int i = 0; i < largest_parts / 32; ++i) peak = fmaxf(peak, scratch[i]);
  __syncthreads();
  return double(peak == 0.f ? 1.f : peak) / sums.most;
}

// Nothing is added where it is zero, as for neighbours that do not count.
LM_DEVICE void give(float* to, float value) {
  if (value != 0.f) atomic_add(to, value);
}
LM_DEVICE void give(long long* to, float value, double per_unit) {
  if (fabsf(value) < INFINITY) {
    const auto whole = static_cast<long long>(double(value) * per_unit);
    if (whole) atomic_add(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(whole));
  } else {
    atomic_max(to, not_a_number);
  }
}

// A pixel's upstream gradient goes to its four neighbours.
template <class S>
LM_DEVICE void spread_gradient(const Map<S>& grad, const S* from, const Corners& c, const ImageSums& sums, int64_t n,
                               double per_unit) {
  const int64_t at = n * sums.stride_n + c.at;
#pragma unroll 1
  for (int channel = 0; channel < grad.channels; ++channel) {
    const float g = to_float(load(from + channel * grad.stride_c));
    const int64_t to = at + channel * sums.stride_c;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (sums.largest)
        give(static_cast<long long*>(sums.data) + to + (i % 2 ? c.below : 0) + (i / 2 ? c.right : 0), g * c.share[i],
             per_unit);
      else
        give(static_cast<float*>(sums.data) + to + (i % 2 ? c.below : 0) + (i / 2 ? c.right : 0), g * c.share[i]);
    }
  }
}

// The gradient of a pixel's position, in pixels.
template <class S>
LM_DEVICE Point<float> gradient_of_position(const Map<S>& grad, const S* upstream, const Map<S>& image, const S* from,
                                            const Corners& c, const Neighbours& x, const Neighbours& y) {
  Point<float> sum = {0.f, 0.f};
#pragma unroll 2
  for (int channel = 0; channel < grad.channels; ++channel) {
    const float g = to_float(load(upstream + channel * grad.stride_c));
    const S* const plane = from + channel * image.stride_c;
    const float v_00 = to_float(load(corner(plane, c, 0))), v_01 = to_float(load(corner(plane, c, 1)));
    const float v_10 = to_float(load(corner(plane, c, 2))), v_11 = to_float(load(corner(plane, c, 3)));
    const float upper = v_10 * x.slope[1] - v_00 * x.slope[0], lower = v_11 * x.slope[1] - v_01 * x.slope[0];
    const float left = v_01 * y.slope[1] - v_00 * y.slope[0], right = v_11 * y.slope[1] - v_10 * y.slope[0];
    sum.x += g * (upper * y.weight[0] + lower * y.weight[1]);
    sum.y += g * (left * x.weight[0] + right * x.weight[1]);
  }
  return sum;
}

// What a block leaves for the spline: sums of weights, affine, before (if there is one), and of centres if asked for.
struct SplineSums {
  float* partials;      // [image][tile][value], null if nothing was asked for
  int values, centers;  // where those of centres begin, 0 if they were not asked for
};

// Sums of a block's threads, six for each of two maps, the second of which may be left out. Shared memory: 12 numbers
// for each warp.
LM_DEVICE void store_outer(const float (&sums)[2][6], LM_SHARED_POINTER(float) scratch, float* to, bool both) {
  const int count = both ? 12 : 6;
#pragma unroll
  for (int i = 0; i < 12; ++i) {
    if (i >= count) break;
    const float sum = warp_sum(sums[i / 6][i % 6]);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32 * 12 + i] = sum;
  }
  __syncthreads();
  if (int(threadIdx.x) >= count) return;
  float sum = 0;
  for (int w = 0; w < gradient_threads / 32; ++w) sum += scratch[w * 12 + threadIdx.x];
  store(to + threadIdx.x, sum);
}
// of (p, 1)^T
LM_DEVICE void add_outer(float (&sums)[6], const Point<float>& of, const Point<float>& p) {
  sums[0] += of.x * p.x, sums[1] += of.x * p.y, sums[2] += of.x;
  sums[3] += of.y * p.x, sums[4] += of.y * p.y, sums[5] += of.y;
}

// Sums over a block's pixels, (q, gradient) each, for weights and centres: a thread has a control point and a share of
// the pixels. Shared memory: 4 numbers for each thread.
template <class real>
LM_DEVICE void store_points(const Plates<real>& plates, int64_t n, LM_SHARED_POINTER(float) pixels, int count,
                            LM_SHARED_POINTER(float) scratch, const SplineSums& to, float* partials) {
  constexpr int most_groups = 32;
  constexpr float unit = float(2 * plate_unit);
  const int thread = threadIdx.x;
  const real* const centers = centers_of(plates, n);
  const real* const weights = plates.weights + 2 * n * plates.points;
  for (int first = 0; first < plates.points; first += gradient_threads) {
    const int points = plates.points - first < gradient_threads ? plates.points - first : gradient_threads;
    const int fitting = gradient_threads / points, groups = fitting < most_groups ? fitting : most_groups;
    const int group = thread / points, i = thread - group * points;
    float sums[4] = {};
    if (group < groups) {
      const int64_t at = 2 * int64_t(first + i);
      const float c_x = float(load(centers + at)), c_y = float(load(centers + at + 1));
      const float w_x = float(load(weights + at)), w_y = float(load(weights + at + 1));
#pragma unroll 4
      for (int p = group; p < count; p += groups) {
        const Vector<float, 4> pixel = load_shared<4>(pixels + 4 * p);
        const float dx = pixel[0] - c_x, dy = pixel[1] - c_y;
        const float r2 = dx * dx + (dy * dy + least_square<float>), log = plate_log2(r2), kernel = r2 * log;
        sums[0] += kernel * pixel[2];
        sums[1] += kernel * pixel[3];
        if (to.centers == 0) continue;
        const float e = (log * unit + 1) * (w_x * pixel[2] + w_y * pixel[3]);
        sums[2] -= e * dx;
        sums[3] -= e * dy;
      }
    }
    __syncthreads();
    store_shared<4>(scratch + 4 * thread, {sums[0] * float(plate_unit), sums[1] * float(plate_unit), sums[2], sums[3]});
    __syncthreads();
    for (int v = thread; v < 4 * points; v += gradient_threads) {
      const int j = v % 4;
      if (j >= 2 && to.centers == 0) continue;
      float sum = 0;
      for (int g = 0; g < groups; ++g) sum += scratch[4 * g * points + v];
      store(partials + (j < 2 ? 0 : to.centers - 2) + 2 * (int64_t(first) + v / 4) + j, sum);
    }
  }
}

// A block's sums for the spline, and its pixels' shares of the image's gradient.
template <class S, class real>
LM_KERNEL(gradient_threads, 2)
tps_warp_backward_map(Map<S> grad, Map<S> image, Plates<real> plates, WarpAxis<real> along_x, WarpAxis<real> along_y,
                      bool zeros, unsigned tiles, ImageSums of_image, SplineSums of_spline) {
  LM_SHARED(real, controls, 4 * control_chunk);
  LM_SHARED(real, maps, map_numbers);
  LM_SHARED(float, gradients, 4 * gradient_tile);
  LM_SHARED(float, scratch, 4 * gradient_threads);
  const int64_t n = blockIdx.x / tiles, first = int64_t(blockIdx.x % tiles) * gradient_tile;
  const double per_unit = of_image.largest ? 1 / unit_of(of_image, scratch) : 1.0;
  WarpPixel<real> pixels[warp_pixels];
  place_pixels<gradient_threads>(plates, along_x, along_y, n, first, controls, maps, pixels);
  Neighbours x[warp_pixels], y[warp_pixels];
  const S* upstream[warp_pixels];
#pragma unroll
  for (int k = 0; k < warp_pixels; ++k) {
    x[k] = neighbours(along_x, pixels[k].column, pixels[k].move.x, zeros);
    y[k] = neighbours(along_y, pixels[k].row, pixels[k].move.y, zeros);
    upstream[k] = grad.data + n * grad.stride_n + pixels[k].row * grad.stride_h + pixels[k].column * grad.stride_w;
    if (of_image.data && pixels[k].inside)
      spread_gradient(grad, upstream[k], corners_of(x[k], y[k], of_image.stride_h, of_image.stride_w), of_image, n,
                      per_unit);
  }
  if (!of_spline.partials) return;
  float* const partials = of_spline.partials + int64_t(blockIdx.x) * of_spline.values;
  Point<float> of_q[warp_pixels];
  float outer[2][6] = {};
#pragma unroll
  for (int k = 0; k < warp_pixels; ++k) {
    const Corners c = corners_of(x[k], y[k], image.stride_h, image.stride_w);
    Point<float> of_g =
        gradient_of_position(grad, upstream[k], image, image.data + n * image.stride_n + c.at, c, x[k], y[k]);
    of_g.x *= float(along_x.pixels), of_g.y *= float(along_y.pixels);
    const Point<float> q = {float(pixels[k].q.x), float(pixels[k].q.y)};
    store_shared<4>(gradients + 4 * (k * gradient_threads + threadIdx.x), {q.x, q.y, of_g.x, of_g.y});
    of_q[k] = of_g;
    if (pixels[k].inside) add_outer(outer[0], of_g, q);
  }
  if (plates.before) {
    Point<float> of_g[warp_pixels];
    const AffineMap a = map_at(plates.affine + 6 * n);
#pragma unroll
    for (int k = 0; k < warp_pixels; ++k) {
      of_g[k] = of_q[k];
      of_q[k] = {float(a.xx) * of_g[k].x + float(a.yx) * of_g[k].y, float(a.xy) * of_g[k].x + float(a.yy) * of_g[k].y};
    }
    for_each_control<gradient_threads>(
        plates, n, controls, plates.points <= control_chunk, [&](const Control<real>& c) {
#pragma unroll
          for (int k = 0; k < warp_pixels; ++k) {
            const float dx = float(pixels[k].q.x - c.x), dy = float(pixels[k].q.y - c.y);
            const float log = plate_log2(dx * dx + (dy * dy + least_square<float>));
            const float e =
                (2 * log + float(1 / plate_unit)) * (float(c.weight_x) * of_g[k].x + float(c.weight_y) * of_g[k].y);
            of_q[k].x += e * dx, of_q[k].y += e * dy;
          }
        });
#pragma unroll
    for (int k = 0; k < warp_pixels; ++k)
      if (pixels[k].inside) add_outer(outer[1], of_q[k], {float(pixels[k].p.x), float(pixels[k].p.y)});
  }
  const int64_t left = int64_t(along_x.count) * along_y.count - first;
  store_outer(outer, scratch, partials + 2 * int64_t(plates.points), plates.before != nullptr);
  store_points(plates, n, gradients, left < gradient_tile ? int(left) : gradient_tile, scratch, of_spline, partials);
}

// ---- second stage --------------------------------------------------------------------------------------------------

// Gradients of the spline's tensors, null where they were not asked for, from sums of blocks.
template <class real>
struct SplineGradients {
  const float* partials;
  int64_t images;
  int tiles, points, values, centers;  // as SplineSums has them
  bool shared;
  real *of_centers, *of_weights, *of_affine, *of_before;
};
// Values that a block adds up, in so many parts.
constexpr int sum_values = 32, sum_parts = gradient_threads / sum_values;

// Values of an image; centres that all images share come after those of all images.
template <class real>
LM_FUNCTION int values_of_image(const SplineGradients<real>& g) {
  return g.shared && g.centers ? g.centers : g.values;
}
LM_FUNCTION int64_t sum_blocks(int values) { return (values + sum_values - 1) / sum_values; }

template <class real>
LM_KERNEL(gradient_threads, 4)
tps_warp_backward_finish(SplineGradients<real> g) {
  LM_SHARED(double, sums, gradient_threads);
  const int lane = threadIdx.x % sum_values, part = threadIdx.x / sum_values;
  const int own = values_of_image(g);
  const int64_t blocks = sum_blocks(own), block = blockIdx.x;
  const bool is_own = block < g.images * blocks;
  const int64_t n = is_own ? block / blocks : 0;
  const int64_t first = n * g.tiles, rows = is_own ? g.tiles : g.images * g.tiles;
  const int v = int(is_own ? block % blocks : block - g.images * blocks) * sum_values + lane + (is_own ? 0 : own);
  const bool known = v < (is_own ? own : g.values);
  double sum = 0;
  if (known)
#pragma unroll 4
    for (int64_t row = part; row < rows; row += sum_parts)
      sum += double(load(g.partials + (first + row) * g.values + v));
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (part || !known) return;
  for (int i = 1; i < sum_parts; ++i) sum += sums[i * sum_values + lane];
  const int points = 2 * g.points;
  const auto give = [&](real* to, int begin, int count) {
    if (to) store(to + n * count + (v - begin), real(sum));
  };
  if (g.centers && v >= g.centers)
    give(g.of_centers, g.centers, points);
  else if (v < points)
    give(g.of_weights, 0, points);
  else if (v < points + 6)
    give(g.of_affine, points, 6);
  else
    give(g.of_before, points + 6, 6);
}

// ---- the image's gradient beside atomics ---------------------------------------------------------------------------

// Zeros, `count` times 16 bytes, and, where they are asked for, the largest finite magnitudes of parts of a gradient.
template <class S>
LM_KERNEL(gradient_threads, 4)
tps_warp_backward_prepare(float* sums, int64_t count, Map<S> grad, int64_t images, float* largest) {
  LM_SHARED(float, scratch, gradient_threads / 32);
  const int64_t thread = int64_t(blockIdx.x) * gradient_threads + threadIdx.x;
  const int64_t threads = int64_t(gridDim.x) * gradient_threads;
  for (int64_t i = thread; i < count; i += threads) store_vector<4>(sums + 4 * i, Vector<float, 4>{});
  if (!largest) return;
  float found = 0;
  const int64_t plane = int64_t(grad.height) * grad.width;
  for (int64_t i = thread; i < images * grad.channels * plane; i += threads) {
    const int64_t map = quotient(i, plane), at = i - map * plane, y = quotient(at, grad.width), x = at - y * grad.width;
    const int64_t n = quotient(map, grad.channels), c = map - n * grad.channels;
    const float size = fabsf(
        to_float(load(grad.data + n * grad.stride_n + c * grad.stride_c + y * grad.stride_h + x * grad.stride_w)));
    found = size < INFINITY ? fmaxf(found, size) : found;
  }
  found = warp_max(found);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = found;
  __syncthreads();
  if (threadIdx.x) return;
  for (int i = 1; i < gradient_threads / 32; ++i) found = fmaxf(found, scratch[i]);
  store(largest + blockIdx.x, found);
}

// The image's gradient from its sums, which lie in memory as it does; 16 bytes a thread.
template <class S>
LM_KERNEL(gradient_threads, 4)
tps_warp_backward_convert(ImageSums sums, S* to, int64_t count) {
  constexpr int V = wide<S>;
  LM_SHARED(float, scratch, gradient_threads / 32);
  const double unit = sums.largest ? unit_of(sums, scratch) : 1.0;
  const int64_t first = (int64_t(blockIdx.x) * gradient_threads + threadIdx.x) * V;
  Vector<S, V> word;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    if (first + j >= count) break;
    float value;
    if (sums.largest) {
      const long long whole = load(static_cast<const long long*>(sums.data) + first + j);
      value = whole >= not_a_number / 2 ? NAN : float(double(whole) * unit);
    } else {
      value = load(static_cast<const float*>(sums.data) + first + j);
    }
    word[j] = from_float<S>(value);
  }
  if (first + V <= count && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
    store_vector<V>(to + first, word);
    return;
  }
#pragma unroll
  for (int j = 0; j < V; ++j)
    if (first + j < count) store(to + first + j, word[j]);
}

}  // namespace lmdis
