// Softmax of each axis' mean logits, and its moments (over="marginals"); see lmdis_fast/reference/heatmap_moments.py.
#pragma once

#include "moments_gradient.cuh"

namespace lmdis {

// Sums of tiles' logits: along_x [map][tiles down][width], along_y [map][tiles across][height], maps in the order (n,
// c).
struct AxisSums {
  float *along_x, *along_y;
  int across, down;
};

// Sums of a tile of one channel along each axis.
template <class S>
LM_KERNEL(moments_threads, 3)
heatmap_moments_axes(Map<S> logits, Tiling tiling, AxisSums sums) {
  constexpr int pitch = moments_threads + 4;
  LM_SHARED(float, z, moments_warps* pitch);
  LM_SHARED(float, columns_sums, moments_warps* moments_threads);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x, lane = thread % 32;
  const int64_t n = blockIdx.x / tiles;
  const int first = blockIdx.y * moments_warps, left = logits.channels - first, warp = thread / 32;
  const int count = left < moments_warps ? left : moments_warps;
  const int64_t map = n * logits.channels + first + warp;
  const int width = tiling.columns < logits.width - tile % tiling.across * tiling.columns
                        ? tiling.columns
                        : logits.width - tile % tiling.across * tiling.columns;
  const auto by_column = columns_sums + warp * moments_threads;
  for (int x = lane; x < width; x += 32) by_column[x] = 0;
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, first, count);
    if (s.y >= logits.height) break;
    const int rows = s.rows < logits.height - s.y ? s.rows : logits.height - s.y;
    __syncthreads();
    load_step<moments_threads>(logits, s, z, pitch);
    __syncthreads();
    if (warp >= count) continue;
    const auto mine = z + warp * pitch;
    for (int row = 0; row < rows; ++row) {
      float of_row = 0;
      for (int x = lane; x < width; x += 32) {
        const float value = mine[row * s.columns + x];
        of_row += value;
        by_column[x] += value;
      }
      of_row = warp_sum(of_row);
      if (lane == 0)
        store(sums.along_y + (map * sums.across + tile % tiling.across) * logits.height + s.y + row, of_row);
    }
  }
  if (warp >= count) return;
  const int x0 = tile % tiling.across * tiling.columns;
  for (int x = lane; x < width; x += 32)
    store(sums.along_x + (map * sums.down + tile / tiling.across) * logits.width + x0 + x, by_column[x]);
}

// One axis of a map: `parts` sums of `length` mean logits in powers of two.
struct Axis {
  const float* sums;
  int parts, length;
  double scale;
};
LM_DEVICE float logit_of(const Axis& axis, int i) {
  double total = 0;
  for (int part = 0; part < axis.parts; ++part) total += double(load(axis.sums + int64_t(part) * axis.length + i));
  return float(total * axis.scale);
}

struct AxisSoftmax {
  float peak, inverse;
};
// A whole warp calls it.
LM_DEVICE AxisSoftmax softmax_of(const Axis& axis) {
  float peak = -INFINITY, total = 0;
  for (int i = threadIdx.x % 32; i < axis.length; i += 32) peak = fmaxf(peak, logit_of(axis, i));
  peak = finite_peak(warp_max(peak));
  for (int i = threadIdx.x % 32; i < axis.length; i += 32) total += exp2f(logit_of(axis, i) - peak);
  return {peak, inverse_total(warp_sum(total))};
}
LM_DEVICE float probability_of(const Axis& axis, const AxisSoftmax& softmax, int i) {
  return exp2f(logit_of(axis, i) - softmax.peak) * softmax.inverse;
}

// Mass, mean and central second moment along an axis, in pixels from its middle. A whole warp calls it.
struct AxisMoments {
  double mass, mean, second;
};
LM_DEVICE AxisMoments moments_of(const Axis& axis, const AxisSoftmax& softmax) {
  double mass = 0, mean = 0, second = 0;
  for (int i = threadIdx.x % 32; i < axis.length; i += 32) {
    const double p = double(probability_of(axis, softmax, i)), x = 0.5 * double(2 * i - (axis.length - 1));
    mass += p;
    mean += p * x;
  }
  mass = warp_sum(mass), mean = warp_sum(mean);
  for (int i = threadIdx.x % 32; i < axis.length; i += 32) {
    const double p = double(probability_of(axis, softmax, i)), x = 0.5 * double(2 * i - (axis.length - 1)) - mean;
    second += p * x * x;
  }
  return {mass, mean, warp_sum(second)};
}

LM_DEVICE Axis axis_x(const AxisSums& sums, int64_t map, int width, double scale) {
  return {sums.along_x + map * sums.down * width, sums.down, width, scale};
}
LM_DEVICE Axis axis_y(const AxisSums& sums, int64_t map, int height, double scale) {
  return {sums.along_y + map * sums.across * height, sums.across, height, scale};
}

// Softmax along each axis and its moments: a warp for each landmark.
LM_KERNEL(128, 1)
heatmap_moments_marginals(AxisSums sums, int channels, int count, int64_t landmarks, int height, int width,
                          double scale_x, double scale_y, Frame frame, float* coords, float* variance, float* mass,
                          int second) {
  const int64_t i = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
  if (i >= landmarks) return;
  const int64_t map = i / count * channels + i % count;
  const Axis x = axis_x(sums, map, width, scale_x), y = axis_y(sums, map, height, scale_y);
  const AxisMoments along_x = moments_of(x, softmax_of(x)), along_y = moments_of(y, softmax_of(y));
  if (threadIdx.x % 32) return;
  const double to_x = frame.scale_x * frame.step_x, to_y = frame.scale_y * frame.step_y;
  store(coords + 2 * i, float(frame.step_x * along_x.mean));
  store(coords + 2 * i + 1, float(frame.step_y * along_y.mean));
  store(mass + i, float(along_x.mass * along_y.mass));
  store(variance + second * i, float(to_x * to_x * along_x.second));
  store(variance + second * i + 1, float(to_y * to_y * along_y.second));
  if (second == 3) store(variance + second * i + 2, 0.f);  // the product of two marginals has no correlation
}

// h along an axis: a parabola about the landmark's coordinate.
struct Parabola {
  float at, slope, square, half_step;
};
LM_DEVICE float parabola_at(const Parabola& h, int i, int length) {
  const float d = place_of(i, length, h.half_step) - h.at;
  return (h.square * d + h.slope) * d;
}
// sum p h along an axis. A whole warp calls it.
LM_DEVICE float expected_of(const Axis& axis, const AxisSoftmax& softmax, const Parabola& h) {
  float sum = 0;
  for (int i = threadIdx.x % 32; i < axis.length; i += 32)
    sum += probability_of(axis, softmax, i) * parabola_at(h, i, axis.length);
  return warp_sum(sum);
}

// Gradient of a tile of one channel: what its columns' and its rows' softmax receive, added. `per_column` and `per_row`
// are 1 / (T H) and 1 / (T W). Each warp finds the sums along both axes for itself.
template <class S>
LM_KERNEL(moments_threads, 3)
heatmap_moments_backward_marginals(Map<S> grad, Tiling tiling, AxisSums sums, double scale_x, double scale_y,
                                   float per_column, float per_row, MomentsGradient given) {
  constexpr int pitch = moments_threads + 4;
  LM_SHARED(float, z, pitch);
  LM_SHARED(float, of_columns, moments_threads);
  LM_SHARED(float, of_rows, moments_threads);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x, c = blockIdx.y;
  const int64_t n = blockIdx.x / tiles, map = n * grad.channels + c, k = n * given.count + c;
  const bool landmark = c < given.count;
  const Step first = step_of(tiling, n, tile, 0, c, 1);
  const int row = thread / tiling.columns, column = thread - row * tiling.columns;
  const int columns = tiling.columns < grad.width - first.x ? tiling.columns : grad.width - first.x;
  const int high = tiling.rows * tiling.steps, rows = high < grad.height - first.y ? high : grad.height - first.y;
  if (landmark) {
    const Frame& f = given.frame;
    const Parabola hx = {load(given.coords + 2 * k), or_zero(given.grad_coords, 2 * k),
                         float(f.scale_x * f.scale_x) * or_zero(given.grad_variance, k * given.second),
                         float(f.step_x / 2)};
    const Parabola hy = {load(given.coords + 2 * k + 1), or_zero(given.grad_coords, 2 * k + 1),
                         float(f.scale_y * f.scale_y) * or_zero(given.grad_variance, k * given.second + 1),
                         float(f.step_y / 2)};
    const Axis x = axis_x(sums, map, grad.width, scale_x), y = axis_y(sums, map, grad.height, scale_y);
    const AxisSoftmax px = softmax_of(x), py = softmax_of(y);
    const float expected_x = expected_of(x, px, hx), expected_y = expected_of(y, py, hy);
    for (int i = thread; i < columns; i += moments_threads)
      of_columns[i] =
          probability_of(x, px, first.x + i) * (parabola_at(hx, first.x + i, grad.width) - expected_x) * per_column;
    for (int i = thread; i < rows; i += moments_threads)
      of_rows[i] =
          probability_of(y, py, first.y + i) * (parabola_at(hy, first.y + i, grad.height) - expected_y) * per_row;
  }
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, c, 1);
    if (s.y >= grad.height) break;
    __syncthreads();
    if (row < tiling.rows && column < columns && s.y + row < grad.height)
      z[thread] = landmark ? of_columns[column] + of_rows[s.y - first.y + row] : 0.f;
    __syncthreads();
    store_step<moments_threads>(grad, s, z, pitch);
  }
}

}  // namespace lmdis
