// Kernels of render_gaussians and splat_landmarks; see lmdis_fast/reference/gaussian_splat.py. Exponentials are taken
// along a tile's columns and rows and multiplied; a block owns a tile at one level.
#pragma once

#include "../gaussian_splat.h"
#include "gaussian_pool.cuh"

namespace lmdis {

constexpr int most_levels = 16;

// Landmarks, and what the levels are made with: precision is log2(e) / (2 sigma^2).
struct Levels {
  const float* coords;
  int landmarks, channels, features, count;
  Normalize normalize;
  AxisFrame x, y;
  float precision[most_levels], gain[most_levels], floor[most_levels];
};
LM_DEVICE int first_map(const Levels& v, int level) { return level * v.channels; }
LM_DEVICE int first_feature(const Levels& v, int level) { return v.count * v.channels + level * v.features; }

// Offsets of a landmark along an axis: how many numbers of shared memory they take, and what they are.
constexpr int level_axis = 5;
// The landmarks along both axes at a level: a warp for each.
LM_DEVICE void load_points(const Levels& v, int64_t n, int level, LM_SHARED_POINTER(float) to) {
  for (int k = threadIdx.x / 32; k < v.landmarks; k += product_threads / 32)
    for (int j = 0; j < 2; ++j) {
      const AxisFrame& axis = j ? v.y : v.x;
      const float point = load(v.coords + 2 * (n * v.landmarks + k) + j);
      const AxisPoint p = axis_point(axis, point, v.precision[level]);
      const bool sum = v.normalize == Normalize::sum;
      const AxisMean mean = sum ? axis_mean(axis, p) : AxisMean{1.f, 0.f, 0.f};
      if (threadIdx.x % 32) continue;
      const auto at = to + (2 * k + j) * level_axis;
      at[0] = p.nearest, at[1] = p.lead, at[2] = point, at[3] = mean.inverse, at[4] = mean.offset;
    }
}
// Offset of pixel i from the point in width units; for a sum over the map from the mean.
LM_DEVICE float level_offset(const Levels& v, const AxisFrame& axis, LM_SHARED_POINTER(float) at, int i) {
  if (v.normalize == Normalize::sum) return axis.pitch * (float(i) - at[0]) - at[4];
  return axis.scale * (axis.half * float(2 * i - (axis.length - 1)) - at[2]);
}
LM_DEVICE float level_weight(const Levels& v, const AxisFrame& axis, LM_SHARED_POINTER(float) at, int i,
                             float precision) {
  if (v.normalize == Normalize::sum) {
    const AxisPoint p = {at[0], at[1], precision};
    return weight_of(p, excess_of(p, offset_of(axis, p, i))) * at[3];
  }
  const float offset = level_offset(v, axis, at, i);
  return exp2f(-precision * offset * offset);
}

// Weights of `length` pixels from `first` along an axis, times a factor.
LM_DEVICE void level_along(const Levels& v, int level, bool of_y, LM_SHARED_POINTER(float) points, int first,
                           int length, float factor, LM_SHARED_POINTER(float) to, int pitch) {
  const AxisFrame& axis = of_y ? v.y : v.x;
  for (int i = threadIdx.x; i < v.landmarks * length; i += product_threads) {
    const int k = i / length, j = i - k * length;
    const auto at = points + (2 * k + (of_y ? 1 : 0)) * level_axis;
    to[k * pitch + j] = level_weight(v, axis, at, first + j, v.precision[level]) * factor;
  }
}

// Maps of a step, zero where there is no pixel: neighbouring threads share a pixel.
LM_DEVICE void maps_of_step(const Levels& v, int level, LM_SHARED_POINTER(float) q, LM_SHARED_POINTER(float) along_x,
                            LM_SHARED_POINTER(float) along_y, const PoolBlock& block, const Step& s, int top,
                            int height, int width) {
  const int parts = product_threads / block.pixels, p = threadIdx.x / parts, part = threadIdx.x - p * parts;
  const int row = p / s.columns, column = p - row * s.columns;
  const bool inside = row < s.rows && s.y + row < height && s.x + column < width;
  float total = 0;
  for (int c = part; c < v.channels; c += parts) {
    float value = 0;
    if (inside)
      value = c == v.landmarks ? v.floor[level]
                               : along_x[c * block.pixels + column] * along_y[c * block.pixels + s.y - top + row];
    q[c * block.pitch + p] = value;
    total += value;
  }
  if (v.normalize != Normalize::channels) return;
  for (int mask = parts / 2; mask > 0; mask >>= 1) total += __shfl_xor_sync(all_lanes, total, mask);
  const float inverse = inverse_total(total);
  for (int c = part; c < v.channels; c += parts) q[c * block.pitch + p] = q[c * block.pitch + p] * inverse;
}

// Where a block's parts begin in shared memory: weights, features, coefficients, points, weights along both axes.
struct SplatMemory {
  int features, coefficients, points, along_x, along_y, upstream, end;
};
LM_FUNCTION SplatMemory splat_memory(int landmarks, int channels, const PoolBlock& b, bool backward) {
  SplatMemory m;
  m.features = channels * b.pitch;
  m.coefficients = m.features + features_numbers(b);
  m.upstream = m.coefficients + b.features * channels;
  m.upstream = (m.upstream + 3) / 4 * 4;
  m.points = m.upstream + (backward ? channels * b.pitch : 0);
  m.along_x = m.points + 2 * level_axis * landmarks;
  m.along_y = m.along_x + b.pixels * landmarks;
  m.end = m.along_y + b.pixels * landmarks;
  return m;
}

// Coefficients g(s, c) of features from `first` on, of vectors (N, K+1, S).
LM_DEVICE void load_vectors(const Levels& v, const float* vectors, int64_t n, int first, int count,
                            LM_SHARED_POINTER(float) g) {
  for (int i = threadIdx.x; i < v.channels * count; i += product_threads) {
    const int c = i / count, j = i - c * count;
    g[j * v.channels + c] = load(vectors + (n * v.channels + c) * v.features + first + j);
  }
}

// Maps of a tile at a level, and the features spread over it.
template <class S>
LM_KERNEL(product_threads, 3)
gaussian_splat_maps(Map<S> maps, const float* vectors, Levels levels, Tiling tiling, PoolBlock block) {
  LM_DYNAMIC_SHARED(float, q);
  const SplatMemory at = splat_memory(levels.landmarks, levels.channels, block, false);
  const auto f = q + at.features, g = q + at.coefficients, points = q + at.points;
  const auto along_x = q + at.along_x, along_y = q + at.along_y;
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, level = blockIdx.y;
  const int64_t n = blockIdx.x / tiles;
  const QuadThread t = quad_thread(block.pixels);
  const Step top = step_of(tiling, n, tile, 0, first_map(levels, level), levels.channels);
  load_points(levels, n, level, points);
  __syncthreads();
  level_along(levels, level, false, points, top.x, top.columns, 1.f, along_x, block.pixels);
  level_along(levels, level, true, points, top.y, tiling.rows * tiling.steps, levels.gain[level], along_y,
              block.pixels);
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, top.first, top.count);
    if (s.y >= maps.height) break;
    __syncthreads();
    maps_of_step(levels, level, q, along_x, along_y, block, s, top.y, maps.height, maps.width);
    __syncthreads();
    store_step<product_threads>(maps, s, q, block.pitch);
    for (int first = 0; first < levels.features; first += block.features) {
      const int left = levels.features - first, count = left < block.features ? left : block.features;
      __syncthreads();
      load_vectors(levels, vectors, n, first, count, g);
      __syncthreads();
      spread(f, t, g, levels.channels, count, q, levels.channels, block.pitch);
      __syncthreads();
      store_step<product_threads>(maps, {n, first_feature(levels, level) + first, count, s.x, s.y, s.columns, s.rows},
                                  f, block.pitch);
    }
  }
}

// A tile's part of both gradients at a level, from the maps' gradient: `moved` [image][level, tile, block of
// features][K][2] and `pooled` [image][level, tile][K+1][S]. grid.z blocks share the features; the maps' own gradient
// counts with the first.
template <class S, int R>
LM_KERNEL(product_threads, 2)
gaussian_splat_backward_partials(Map<S> grad, const float* vectors, Levels levels, Tiling tiling, PoolBlock block,
                                 float* moved, float* pooled) {
  LM_DYNAMIC_SHARED(float, q);
  const int channels = levels.channels, landmarks = levels.landmarks;
  const SplatMemory at = splat_memory(landmarks, channels, block, true);
  const auto f = q + at.features, g = q + at.coefficients, upstream = q + at.upstream, points = q + at.points;
  const auto along_x = q + at.along_x, along_y = q + at.along_y;
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, level = blockIdx.y;
  const int64_t n = blockIdx.x / tiles;
  const int first = blockIdx.z * block.features, left = levels.features - first;
  const int count = left < block.features ? left : block.features;
  const bool own = blockIdx.z == 0, normalized = levels.normalize == Normalize::channels;
  const QuadThread t = quad_thread(block.pixels);
  const PoolThread of_pool = pool_thread(channels, count > 0 ? count : 1);
  const Step top = step_of(tiling, n, tile, 0, first_map(levels, level), channels);
  load_points(levels, n, level, points);
  if (count > 0) load_vectors(levels, vectors, n, first, count, g);
  __syncthreads();
  level_along(levels, level, false, points, top.x, top.columns, 1.f, along_x, block.pixels);
  level_along(levels, level, true, points, top.y, tiling.rows * tiling.steps, levels.gain[level], along_y,
              block.pixels);
  Pooled sums = {};
  float moved_x[R] = {}, moved_y[R] = {};
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, top.first, channels);
    if (s.y >= grad.height) break;
    __syncthreads();
    maps_of_step(levels, level, q, along_x, along_y, block, s, top.y, grad.height, grad.width);
    if (own) load_whole_step(grad, s, upstream, block.pitch, block.pixels);
    if (count > 0)
      load_whole_step(grad, {n, first_feature(levels, level) + first, count, s.x, s.y, s.columns, s.rows}, f,
                      block.pitch, block.pixels);
    __syncthreads();
    float h[R][4] = {};
    if (count > 0) {
      back<R>(h, t, g, channels, channels, f, count, block.pitch);
      if (pooled) pool(sums, of_pool, q, channels, f, count, block.pitch, block.pixels);
    }
    if (!moved) continue;
    if (own) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int c = t.row + r * t.rows;
        if (c >= channels) break;
        const Vector<float, 4> values = load_shared<4>(upstream + c * block.pitch + 4 * t.quad);
#pragma unroll
        for (int i = 0; i < 4; ++i) h[r][i] += values[i];
      }
    }
    float expected[4] = {};
    if (normalized) {
      __syncthreads();
      sum_over_channels(expected, h, t, q, channels, block.pitch, block.pixels, f);
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int k = t.row + r * t.rows;
      if (k >= landmarks) break;
      const Vector<float, 4> weights = load_shared<4>(q + k * block.pitch + 4 * t.quad);
      const auto of_x = points + 2 * k * level_axis, of_y = of_x + level_axis;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int p = 4 * t.quad + i, row = p / s.columns, column = p - row * s.columns;
        const float by_point = weights[i] * (h[r][i] - expected[i]);
        moved_x[r] += by_point * level_offset(levels, levels.x, of_x, s.x + column);
        moved_y[r] += by_point * level_offset(levels, levels.y, of_y, s.y + row);
      }
    }
  }
  const int64_t part = (n * levels.count + level) * tiles + tile;
  if (moved) {
    float* const to = moved + (part * gridDim.z + blockIdx.z) * 2 * landmarks;
    const float factor = inverse_square * levels.precision[level];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int k = t.row + r * t.rows;
      const float x = sum_of_quads(moved_x[r], block.pixels), y = sum_of_quads(moved_y[r], block.pixels);
      if (k >= landmarks || t.quad) continue;
      store(to + 2 * k, x * factor * levels.x.scale);
      store(to + 2 * k + 1, y * factor * levels.y.scale);
    }
  }
  if (pooled && count > 0)
    give(
        sums, of_pool, channels, count, q,
        [&](int c, int s, float sum) { store(pooled + (part * channels + c) * levels.features + first + s, sum); },
        [](int, float) {});
}

}  // namespace lmdis
