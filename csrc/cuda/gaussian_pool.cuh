// Kernels of gaussian_pool: features weighted by Gaussians, which a softmax along each axis makes sum to 1; see
// lmdis_fast/reference/landmark_pool.py.
#pragma once

#include "gaussian_axes.cuh"
#include "softmax_pool.cuh"

namespace lmdis {

struct Windows {
  const float *coords, *sigma;
  int count;
  AxisFrame x, y;
};

// What a landmark's window has along one axis, as numbers of shared memory.
constexpr int window_axis = 6;
LM_DEVICE void store_axis(LM_SHARED_POINTER(float) to, const AxisPoint& p, const AxisMean& m) {
  to[0] = p.nearest, to[1] = p.lead, to[2] = p.precision, to[3] = m.inverse, to[4] = m.offset, to[5] = m.excess;
}
LM_DEVICE AxisPoint point_in(LM_SHARED_POINTER(float) from) { return {from[0], from[1], from[2]}; }
LM_DEVICE AxisMean mean_in(LM_SHARED_POINTER(float) from) { return {from[3], from[4], from[5]}; }

// The windows of an image, 2 window_axis numbers each: a warp for each landmark.
LM_DEVICE void load_windows(const Windows& w, int64_t n, LM_SHARED_POINTER(float) to) {
  for (int k = threadIdx.x / 32; k < w.count; k += product_threads / 32) {
    const int64_t at = n * w.count + k;
    const float precision = precision_of(load(w.sigma + at));
    const AxisPoint x = axis_point(w.x, load(w.coords + 2 * at), precision);
    const AxisPoint y = axis_point(w.y, load(w.coords + 2 * at + 1), precision);
    const AxisMean mean_x = axis_mean(w.x, x), mean_y = axis_mean(w.y, y);
    if (threadIdx.x % 32) continue;
    store_axis(to + 2 * window_axis * k, x, mean_x);
    store_axis(to + (2 * window_axis * k + window_axis), y, mean_y);
  }
}

// Weights of `length` pixels from `first` along one axis, a row for each landmark at a pitch, zero beyond the last.
LM_DEVICE void weights_along(const AxisFrame& axis, LM_SHARED_POINTER(float) windows, int count, int first, int length,
                             LM_SHARED_POINTER(float) to, int pitch) {
  for (int i = threadIdx.x; i < count * length; i += product_threads) {
    const int k = i / length, j = i - k * length;
    const AxisPoint p = point_in(windows + 2 * window_axis * k);
    const float weight = weight_of(p, excess_of(p, offset_of(axis, p, first + j)));
    to[k * pitch + j] = first + j < axis.length ? weight * float(windows[2 * window_axis * k + 3]) : 0.f;
  }
}

// Weights of a step: the products of those along the axes.
LM_DEVICE void windows_of_step(LM_SHARED_POINTER(float) q, LM_SHARED_POINTER(float) along_x,
                               LM_SHARED_POINTER(float) along_y, int count, const PoolBlock& block, const Step& s,
                               int top) {
  for (int i = threadIdx.x; i < count * block.pixels; i += product_threads) {
    const int k = i / block.pixels, p = i - k * block.pixels, row = p / s.columns, column = p - row * s.columns;
    q[k * block.pitch + p] =
        row < s.rows ? along_x[k * block.pixels + column] * along_y[k * block.pixels + s.y - top + row] : 0.f;
  }
}

// Sums of tiles, [image][tile][K][S]; grid.y blocks share the features. A tile has at most as many rows as pixels of a
// step. Shared memory: weights, features, windows, weights along both axes.
template <class S>
LM_KERNEL(product_threads, 3)
gaussian_pool_partials(Map<S> features, Windows given, Tiling tiling, PoolBlock block, float* pooled) {
  LM_DYNAMIC_SHARED(float, q);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, landmarks = given.count;
  const int64_t n = blockIdx.x / tiles;
  const int first = blockIdx.y * block.features, left = features.channels - first;
  const int count = left < block.features ? left : block.features;
  const auto f = q + landmarks * block.pitch;
  const auto windows = f + features_numbers(block);
  const auto along_x = windows + 2 * window_axis * landmarks, along_y = along_x + landmarks * block.pixels;
  const PoolThread t = pool_thread(landmarks, count);
  const Step top = step_of(tiling, n, tile, 0, first, count);
  load_windows(given, n, windows);
  __syncthreads();
  weights_along(given.x, windows, landmarks, top.x, top.columns, along_x, block.pixels);
  weights_along(given.y, windows + window_axis, landmarks, top.y, tiling.rows * tiling.steps, along_y, block.pixels);
  Pooled sums = {};
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, first, count);
    if (s.y >= features.height) break;
    __syncthreads();
    load_whole_step(features, s, f, block.pitch, block.pixels);
    windows_of_step(q, along_x, along_y, landmarks, block, s, top.y);
    __syncthreads();
    pool(sums, t, q, landmarks, f, count, block.pitch, block.pixels);
  }
  give(
      sums, t, landmarks, count, q,
      [&](int k, int s, float sum) {
        store(pooled + (int64_t(blockIdx.x) * landmarks + k) * features.channels + first + s, sum);
      },
      [](int, float) {});
}

// The features' gradient of a tile, and its part of the landmarks': `partials` [image][tile][2 K coordinates, K
// widths]. Shared memory: weights, features (then their gradient), coefficients, windows, weights along both axes.
template <class S, int R>
LM_KERNEL(product_threads, 2)
gaussian_pool_backward_map(const float* grad, Map<S> features, Map<S> grad_features, bool need_features,
                           bool need_landmarks, Windows given, Tiling tiling, PoolBlock block, float* moved,
                           float* wider) {
  LM_DYNAMIC_SHARED(float, q);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x;
  const int landmarks = given.count, all = features.channels;
  const int64_t n = blockIdx.x / tiles;
  const auto f = q + landmarks * block.pitch;
  const auto g = f + features_numbers(block);
  const auto windows = g + block.features * landmarks;
  const auto along_x = windows + 2 * window_axis * landmarks, along_y = along_x + landmarks * block.pixels;
  const QuadThread t = quad_thread(block.pixels);
  const Step top = step_of(tiling, n, tile, 0, 0, all);
  load_windows(given, n, windows);
  __syncthreads();
  weights_along(given.x, windows, landmarks, top.x, top.columns, along_x, block.pixels);
  weights_along(given.y, windows + window_axis, landmarks, top.y, tiling.rows * tiling.steps, along_y, block.pixels);
  float moved_x[R] = {}, moved_y[R] = {}, widened[R] = {};
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, 0, all);
    if (s.y >= features.height) break;
    __syncthreads();
    windows_of_step(q, along_x, along_y, landmarks, block, s, top.y);
    float h[R][4] = {};
    for (int first = 0; first < all; first += block.features) {
      const int count = all - first < block.features ? all - first : block.features;
      const Step of_features = {n, first, count, s.x, s.y, s.columns, s.rows};
      __syncthreads();
      for (int i = thread; i < landmarks * count; i += product_threads) {
        const int k = i / count, j = i - k * count;
        g[j * landmarks + k] = load(grad + (n * landmarks + k) * all + first + j);
      }
      if (need_landmarks) {
        load_whole_step(features, of_features, f, block.pitch, block.pixels);
        __syncthreads();
        back<R>(h, t, g, landmarks, landmarks, f, count, block.pitch);
      }
      __syncthreads();
      if (need_features) {
        spread(f, t, g, landmarks, count, q, landmarks, block.pitch);
        __syncthreads();
        store_step<product_threads>(grad_features, of_features, f, block.pitch);
      }
    }
    if (!need_landmarks) continue;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int k = t.row + r * t.rows;
      if (k >= landmarks) break;
      const auto window = windows + 2 * window_axis * k;
      const AxisPoint x = point_in(window), y = point_in(window + window_axis);
      const AxisMean mean_x = mean_in(window), mean_y = mean_in(window + window_axis);
      const Vector<float, 4> weights = load_shared<4>(q + k * block.pitch + 4 * t.quad);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int p = 4 * t.quad + i, row = p / s.columns, column = p - row * s.columns;
        const float by_point = weights[i] * h[r][i];
        const float dx = offset_of(given.x, x, s.x + column), dy = offset_of(given.y, y, s.y + row);
        moved_x[r] += by_point * (dx - mean_x.offset);
        moved_y[r] += by_point * (dy - mean_y.offset);
        widened[r] += by_point * ((excess_of(x, dx) - mean_x.excess) + (excess_of(y, dy) - mean_y.excess));
      }
    }
  }
  if (!need_landmarks) return;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int k = t.row + r * t.rows;
    const float x = sum_of_quads(moved_x[r], block.pixels), y = sum_of_quads(moved_y[r], block.pixels);
    const float more = sum_of_quads(widened[r], block.pixels);
    if (k >= landmarks || t.quad) continue;
    const float sigma = load(given.sigma + n * landmarks + k), square = 1 / (sigma * sigma);
    const int64_t to = int64_t(blockIdx.x) * landmarks + k;
    store(moved + 2 * to, x * square * given.x.scale);
    store(moved + 2 * to + 1, y * square * given.y.scale);
    store(wider + to, more * square / sigma);
  }
}

}  // namespace lmdis
