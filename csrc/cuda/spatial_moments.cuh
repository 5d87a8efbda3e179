// Moments of heatmaps, first of tiles and then of maps; see lmdis_fast/reference/heatmap_moments.py.
//
// Softmax across up to 31 channels: a thread owns a column of its tile and steps down it, so that three sums a channel
// (of q, q y and q y^2) give all six moments; the column enters once, at the end, about the tile's own mean. More
// channels, and a softmax across pixels: a warp owns a channel, takes each step's moments about the step's mean, and
// merges them.
#pragma once

#include "../heatmap_moments.h"
#include "reduce.cuh"
#include "tile.cuh"

namespace lmdis {

constexpr int moments_threads = 256;
// Channels whose column sums fit into a thread's registers, two blocks on a multiprocessor.
constexpr int few_columns = 12, most_columns = 31;
// Channels whose columns are summed at a time.
constexpr int moments_group = 8;
// A tile is about so many rows high: raw sums along a column lose the square of that.
constexpr int moments_rows = 16;
// Of a tile: peak (0 but for a softmax across pixels), mass, mean x and y in pixels from the map's centre, central xx,
// yy, xy.
constexpr int moments_values = 7;

struct TileMoments {
  float mass, x, y, xx, yy, xy;
};

// Where the moments of a tile's channels go: [image][tile][value][channel].
struct Partials {
  float* data;
  int channels;
};
LM_DEVICE void store_moments(const Partials& p, int64_t tile, int c, float peak, const TileMoments& m) {
  float* const to = p.data + tile * moments_values * p.channels + c;
  store(to, peak);
  store(to + p.channels, m.mass);
  store(to + 2 * p.channels, m.x);
  store(to + 3 * p.channels, m.y);
  store(to + 4 * p.channels, m.xx);
  store(to + 5 * p.channels, m.yy);
  store(to + 6 * p.channels, m.xy);
}

// Channels whose exponentials are under way together: as many as leave the sums of 31 columns their registers, which
// compilers for different GPUs count differently.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
template <class S>
constexpr int together = sizeof(S) == 2 ? 1 : 3;
#else
template <class S>
constexpr int together = 3;
#endif

// The exponentials of one pixel's channels, in place, and the inverse of their sum.
template <int U>
LM_DEVICE float exponentials(LM_SHARED_POINTER(float) z, int pitch, int channels, float scale) {
  float peak = -INFINITY, total = 0;
#pragma unroll U
  for (int c = 0; c < channels; ++c) peak = fmaxf(peak, z[c * pitch]);
  peak = finite_peak(peak * scale);
#pragma unroll U
  for (int c = 0; c < channels; ++c) {
    const float e = exp2f(z[c * pitch] * scale - peak);
    z[c * pitch] = e;
    total += e;
  }
  return inverse_total(total);
}

// 0 without a mass; a mass may be so small that its inverse is infinite.
LM_DEVICE float mean_of(float sum, float mass) { return mass == 0 ? 0.f : sum / mass; }

// A channel's moments from its columns' sums: `sums` holds those of q, of q y and of q y^2 for every thread, `across`
// the threads' x. A whole warp calls it.
LM_DEVICE TileMoments moments_of_columns(LM_SHARED_POINTER(float) sums, LM_SHARED_POINTER(float) across, int threads) {
  const int lane = threadIdx.x % 32;
  float mass = 0, x = 0, y = 0;
  for (int t = lane; t < threads; t += 32) {
    const float q = sums[t];
    mass += q;
    x += q * across[t];
    y += sums[moments_threads + t];
  }
  mass = warp_sum(mass);
  x = mean_of(warp_sum(x), mass);
  y = mean_of(warp_sum(y), mass);
  float xx = 0, yy = 0, xy = 0;
  for (int t = lane; t < threads; t += 32) {
    const float q = sums[t], qy = sums[moments_threads + t], dx = across[t] - x, level = qy - y * q;
    xx += q * dx * dx;
    yy += sums[2 * moments_threads + t] - y * (qy + level);
    xy += level * dx;
  }
  return {mass, x, y, warp_sum(xx), warp_sum(yy), warp_sum(xy)};
}

// Moments of tiles, softmax across up to C channels.
template <class S, int C>
LM_KERNEL(moments_threads, 2)
heatmap_moments_channels(Map<S> logits, Tiling tiling, float scale, Partials partials) {
  LM_DYNAMIC_SHARED(float, z);
  LM_SHARED(float, across, moments_threads);
  constexpr int pitch = moments_threads + 4;
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x, channels = logits.channels;
  const int64_t n = blockIdx.x / tiles;
  const int row = thread / tiling.columns, column = thread - row * tiling.columns;
  across[thread] = float(column - tiling.columns / 2);
  float a0[C] = {}, a1[C] = {}, a2[C] = {};
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, 0, channels);
    if (s.y >= logits.height) break;
    __syncthreads();
    load_step_inlined<moments_threads>(logits, s, z, pitch);
    __syncthreads();
    if (row < tiling.rows && s.x + column < logits.width && s.y + row < logits.height) {
      const float inverse = exponentials<together<S>>(z + thread, pitch, channels, scale);
      const float y = float((step - tiling.steps / 2) * tiling.rows + row - tiling.rows / 2);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        if (c >= channels) break;
        const float q = z[c * pitch + thread] * inverse;
        a0[c] += q;
        a1[c] += q * y;
        a2[c] += q * y * y;
      }
    }
  }
#pragma unroll
  for (int group = 0; group < C; group += moments_group) {
    if (group >= channels) break;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < moments_group && group + i < C; ++i) {
      z[3 * i * moments_threads + thread] = a0[group + i];
      z[(3 * i + 1) * moments_threads + thread] = a1[group + i];
      z[(3 * i + 2) * moments_threads + thread] = a2[group + i];
    }
    __syncthreads();
    const int c = group + thread / 32;
    if (c < channels) {
      TileMoments m = moments_of_columns(z + thread / 32 * 3 * moments_threads, across, moments_threads);
      const Step s = step_of(tiling, n, tile, tiling.steps / 2, 0, channels);
      m.x += float(s.x + tiling.columns / 2) - 0.5f * float(logits.width - 1);
      m.y += float(s.y + tiling.rows / 2) - 0.5f * float(logits.height - 1);
      if (thread % 32 == 0) store_moments(partials, int64_t(blockIdx.x), c, 0.f, m);
    }
  }
}

// Moments of one step's weights of a channel about their mean, in pixels from the step's corner. A whole warp calls it.
LM_DEVICE TileMoments moments_of_step(LM_SHARED_POINTER(float) weights, LM_SHARED_POINTER(float) factor, const Step& s,
                                      int columns, int rows) {
  const int lane = threadIdx.x % 32, pixels = rows * s.columns;
  float mass = 0, x = 0, y = 0;
  for (int p = lane; p < pixels; p += 32) {
    const int row = p / s.columns, column = p - row * s.columns;
    if (column >= columns) continue;
    const float q = weights[p] * factor[p];
    mass += q;
    x += q * float(column);
    y += q * float(row);
  }
  mass = warp_sum(mass);
  x = mean_of(warp_sum(x), mass);
  y = mean_of(warp_sum(y), mass);
  float xx = 0, yy = 0, xy = 0;
  for (int p = lane; p < pixels; p += 32) {
    const int row = p / s.columns, column = p - row * s.columns;
    if (column >= columns) continue;
    const float q = weights[p] * factor[p], dx = float(column) - x, dy = float(row) - y;
    xx += q * dx * dx;
    yy += q * dy * dy;
    xy += q * dx * dy;
  }
  return {mass, x + float(s.x), y + float(s.y), warp_sum(xx), warp_sum(yy), warp_sum(xy)};
}

// Both parts together; see merge() in ../heatmap_moments.h.
LM_DEVICE TileMoments merged(const TileMoments& a, const TileMoments& b) {
  const float mass = a.mass + b.mass;
  if (mass == 0) return a;
  const float share = b.mass / mass, dx = b.x - a.x, dy = b.y - a.y, between = a.mass * share;
  return {mass,
          a.x + dx * share,
          a.y + dy * share,
          a.xx + b.xx + dx * dx * between,
          a.yy + b.yy + dy * dy * between,
          a.xy + b.xy + dx * dy * between};
}

constexpr int moments_warps = moments_threads / 32;
// Numbers that are kept for a channel between steps.
constexpr int moments_record = 6;

// Moments of tiles whose softmax runs across any number of channels; a channel's moments so far are in shared memory.
template <class S>
LM_KERNEL(moments_threads, 1)
heatmap_moments_many(Map<S> logits, Tiling tiling, float scale, int pitch, Partials partials) {
  LM_DYNAMIC_SHARED(float, z);
  LM_SHARED(float, factor, moments_threads);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x, channels = logits.channels;
  const int64_t n = blockIdx.x / tiles;
  const int row = thread / tiling.columns, column = thread - row * tiling.columns, lane = thread % 32;
  const auto records = z + channels * pitch;
  for (int i = thread; i < moments_record * channels; i += moments_threads) records[i] = 0;
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, 0, channels);
    if (s.y >= logits.height) break;
    const int columns = s.columns < logits.width - s.x ? s.columns : logits.width - s.x;
    const int rows = s.rows < logits.height - s.y ? s.rows : logits.height - s.y;
    __syncthreads();
    load_step<moments_threads>(logits, s, z, pitch);
    __syncthreads();
    if (row < rows && column < columns) factor[thread] = exponentials<4>(z + thread, pitch, channels, scale);
    __syncthreads();
    for (int c = thread / 32; c < channels; c += moments_warps) {
      const auto r = records + moments_record * c;
      const TileMoments before = {r[0], r[1], r[2], r[3], r[4], r[5]};
      const TileMoments m = merged(before, moments_of_step(z + c * pitch, factor, s, columns, rows));
      __syncwarp();  // every lane has read
      if (lane == 0) r[0] = m.mass, r[1] = m.x, r[2] = m.y, r[3] = m.xx, r[4] = m.yy, r[5] = m.xy;
    }
  }
  for (int c = thread / 32; c < channels; c += moments_warps) {
    if (lane) continue;  // what this lane has written
    const auto r = records + moments_record * c;
    const float x = 0.5f * float(logits.width - 1), y = 0.5f * float(logits.height - 1);
    store_moments(partials, int64_t(blockIdx.x), c, 0.f, {r[0], r[1] - x, r[2] - y, r[3], r[4], r[5]});
  }
}

// Moments of tiles of `moments_warps` channels, softmax across pixels: a warp takes its channel's largest value away.
template <class S>
LM_KERNEL(moments_threads, 3)
heatmap_moments_pixels(Map<S> logits, Tiling tiling, float scale, Partials partials) {
  constexpr int pitch = moments_threads + 4;
  LM_SHARED(float, z, moments_warps* pitch);
  LM_SHARED(float, ones, moments_threads);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x, lane = thread % 32;
  const int64_t n = blockIdx.x / tiles;
  const int first = blockIdx.y * moments_warps, left = logits.channels - first, warp = thread / 32;
  const int count = left < moments_warps ? left : moments_warps;
  ones[thread] = 1;
  float peak = -INFINITY;
  TileMoments m = {};
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, first, count);
    if (s.y >= logits.height) break;
    const int columns = s.columns < logits.width - s.x ? s.columns : logits.width - s.x;
    const int rows = s.rows < logits.height - s.y ? s.rows : logits.height - s.y;
    __syncthreads();
    load_step<moments_threads>(logits, s, z, pitch);
    __syncthreads();
    if (warp >= count) continue;
    const auto mine = z + warp * pitch;
    float highest = peak;
    for (int p = lane; p < rows * s.columns; p += 32)
      if (p % s.columns < columns) highest = fmaxf(highest, mine[p] * scale);
    highest = warp_max(highest);
    const float fade = exp2f(peak - finite_peak(highest));
    for (int p = lane; p < rows * s.columns; p += 32)
      if (p % s.columns < columns) mine[p] = exp2f(mine[p] * scale - finite_peak(highest));
    __syncwarp();
    m.mass *= fade, m.xx *= fade, m.yy *= fade, m.xy *= fade;
    m = merged(m, moments_of_step(mine, ones, s, columns, rows));
    peak = highest;
  }
  if (warp < count && lane == 0) {
    m.x -= 0.5f * float(logits.width - 1);
    m.y -= 0.5f * float(logits.height - 1);
    store_moments(partials, int64_t(blockIdx.x), first + warp, peak, m);
  }
}

// What a tile counts for beside the one with the highest peak.
LM_DEVICE double weight_of_tile(const float* at, float highest, bool over_pixels) {
  return over_pixels ? double(exp2f(load(at) - finite_peak(highest))) : 1.0;
}
LM_DEVICE float highest_peak(const float* first, int tiles, int64_t stride) {
  float highest = -INFINITY;
  for (int t = 0; t < tiles; ++t) highest = fmaxf(highest, load(first + t * stride));
  return highest;
}

// The peak of a channel over a map, and the inverse of its total beside that, from the moments of its tiles.
struct ChannelPeak {
  float peak;
  double inverse;
};
LM_DEVICE ChannelPeak channel_peak(const Partials& p, int64_t n, int tiles, int c) {
  const int64_t stride = int64_t(moments_values) * p.channels;
  const float* const at = p.data + n * tiles * stride + c;
  const float highest = highest_peak(at, tiles, stride);
  double total = 0;
  for (int t = 0; t < tiles; ++t)
    total += weight_of_tile(at + t * stride, highest, true) * double(load(at + t * stride + p.channels));
  return {finite_peak(highest), inverse_total(total)};
}

// All tiles of each landmark together, in double, about the map's mean: a thread for each.
LM_KERNEL(128, 1)
heatmap_moments_finish(Partials partials, int tiles, int count, int64_t landmarks, float* coords, float* variance,
                       float* mass, int second, Frame frame, double eps, bool over_pixels) {
  const int64_t i = int64_t(blockIdx.x) * 128 + threadIdx.x;
  if (i >= landmarks) return;
  const int64_t stride = int64_t(moments_values) * partials.channels, n = i / count;
  const float* const first = partials.data + n * tiles * stride + i % count;
  const float highest = over_pixels ? highest_peak(first, tiles, stride) : 0.f;
  Moments all = {};
  for (int t = 0; t < tiles; ++t) {
    const float* const at = first + t * stride;
    const double fade = weight_of_tile(at, highest, over_pixels);
    double value[6];
    for (int v = 0; v < 6; ++v) value[v] = double(load(at + (v + 1) * partials.channels));
    all = merge(all, {fade * value[0], value[1], value[2], fade * value[3], fade * value[4], fade * value[5]});
  }
  // across pixels the weights are made to sum to one
  const double divisor = over_pixels ? (all.mass == 0 ? 1 : all.mass) : all.mass + eps;
  const Landmark found = finish(all, divisor, frame);
  store(coords + 2 * i, float(found.x));
  store(coords + 2 * i + 1, float(found.y));
  store(mass + i, float(over_pixels ? all.mass / divisor : all.mass));
  store(variance + second * i, float(found.xx));
  store(variance + second * i + 1, float(found.yy));
  if (second == 3) store(variance + second * i + 2, float(found.xy));
}

}  // namespace lmdis
