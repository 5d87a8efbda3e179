// Kernels of landmark_pool: features weighted by a softmax; see lmdis_fast/reference/landmark_pool.py.
//
// A block takes a tile in steps: weights are made once in shared memory, the features are read once, and what is summed
// over pixels stays in registers from step to step. A second kernel adds the tiles in double.
#pragma once

#include "../landmark_pool.h"
#include "pool_block.cuh"
#include "moments_gradient.cuh"

namespace lmdis {

// Softmax of a step across channels, in place: neighbouring threads share a pixel. Zero where there is no pixel.
LM_DEVICE void softmax_of_step(LM_SHARED_POINTER(float) z, int channels, const PoolBlock& block, const Step& s,
                               int height, int width, float scale) {
  const int parts = product_threads / block.pixels, p = threadIdx.x / parts, part = threadIdx.x - p * parts;
  const int row = p / s.columns, column = p - row * s.columns;
  const bool inside = row < s.rows && s.y + row < height && s.x + column < width;
  float peak = -INFINITY, total = 0;
  if (inside)
    for (int c = part; c < channels; c += parts) peak = fmaxf(peak, z[c * block.pitch + p]);
  for (int mask = parts / 2; mask > 0; mask >>= 1) peak = fmaxf(peak, __shfl_xor_sync(all_lanes, peak, mask));
  peak = finite_peak(peak * scale);
  if (inside)
    for (int c = part; c < channels; c += parts) {
      const float e = exp2f(z[c * block.pitch + p] * scale - peak);
      z[c * block.pitch + p] = e;
      total += e;
    }
  for (int mask = parts / 2; mask > 0; mask >>= 1) total += __shfl_xor_sync(all_lanes, total, mask);
  const float inverse = inverse_total(total);
  for (int c = part; c < channels; c += parts) z[c * block.pitch + p] = inside ? z[c * block.pitch + p] * inverse : 0.f;
}

// exp2(z - peak) times a factor of a step whose softmax runs across pixels, in place; zero where there is no pixel.
template <class Peak, class Factor>
LM_DEVICE void weights_of_step(LM_SHARED_POINTER(float) z, int channels, const PoolBlock& block, const Step& s,
                               int height, int width, float scale, Peak peak, Factor factor) {
  for (int i = threadIdx.x; i < channels * block.pixels; i += product_threads) {
    const int c = i / block.pixels, p = i - c * block.pixels, row = p / s.columns, column = p - row * s.columns;
    const bool inside = row < s.rows && s.y + row < height && s.x + column < width;
    z[c * block.pitch + p] = inside ? exp2f(z[c * block.pitch + p] * scale - peak(c)) * factor(c) : 0.f;
  }
}

// Peaks of channels with one more step, a warp for each: `peaks` holds the highest, `fades` what older sums count for.
LM_DEVICE void raise_peaks(LM_SHARED_POINTER(float) z, int channels, const PoolBlock& block, const Step& s, int height,
                           int width, float scale, LM_SHARED_POINTER(float) peaks, LM_SHARED_POINTER(float) fades) {
  const int lane = threadIdx.x % 32;
  for (int c = threadIdx.x / 32; c < channels; c += product_threads / 32) {
    const float before = peaks[c];
    float highest = before;
    for (int p = lane; p < s.rows * s.columns; p += 32) {
      const int row = p / s.columns, column = p - row * s.columns;
      if (s.y + row < height && s.x + column < width) highest = fmaxf(highest, z[c * block.pitch + p] * scale);
    }
    highest = warp_max(highest);
    __syncwarp();
    if (lane == 0) peaks[c] = highest, fades[c] = exp2f(before - finite_peak(highest));
  }
}

// Sums of tiles: `pooled` [image][tile][C][S], `mass` and `peak` [image][tile][C], peak null across channels.
struct PoolPartials {
  float *pooled, *mass, *peak;
};

// grid.y blocks share the features of a tile. Shared memory: weights, features, peaks and fades.
template <class S, bool over_pixels>
LM_KERNEL(product_threads, 3)
landmark_pool_partials(Map<S> features, Map<S> logits, Tiling tiling, PoolBlock block, float scale, PoolPartials to) {
  LM_DYNAMIC_SHARED(float, q);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, channels = logits.channels;
  const int64_t n = blockIdx.x / tiles;
  const int first = blockIdx.y * block.features, left = features.channels - first;
  const int count = left < block.features ? left : block.features;
  const auto f = q + channels * block.pitch;
  const auto peaks = f + features_numbers(block), fades = peaks + channels;
  const PoolThread t = pool_thread(channels, count);
  Pooled sums = {};
  if (over_pixels)
    for (int c = threadIdx.x; c < channels; c += product_threads) peaks[c] = -INFINITY;
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, 0, channels);
    if (s.y >= logits.height) break;
    __syncthreads();
    load_step<product_threads>(logits, s, q, block.pitch);
    load_whole_step(features, {n, first, count, s.x, s.y, s.columns, s.rows}, f, block.pitch, block.pixels);
    __syncthreads();
    if (over_pixels) {
      raise_peaks(q, channels, block, s, logits.height, logits.width, scale, peaks, fades);
      __syncthreads();
      weights_of_step(
          q, channels, block, s, logits.height, logits.width, scale, [&](int c) { return finite_peak(peaks[c]); },
          [](int) { return 1.f; });
#pragma unroll
      for (int a = 0; a < 4; ++a) {
        const int c = t.c + a * t.rows_c;
        const float fade = c < channels ? float(fades[c]) : 1.f;
        sums.mass[a] *= fade;
#pragma unroll
        for (int b = 0; b < 4; ++b) sums.sums[a][b] *= fade;
      }
    } else {
      softmax_of_step(q, channels, block, s, logits.height, logits.width, scale);
    }
    __syncthreads();
    pool(sums, t, q, channels, f, count, block.pitch, block.pixels);
  }
  const int64_t part = int64_t(blockIdx.x) * channels;
  if (over_pixels && blockIdx.y == 0)
    for (int c = threadIdx.x; c < channels; c += product_threads) store(to.peak + part + c, float(peaks[c]));
  give(
      sums, t, channels, count, q,
      [&](int c, int s, float sum) { store(to.pooled + (part + c) * features.channels + first + s, sum); },
      [&](int c, float sum) {
        if (blockIdx.y == 0) store(to.mass + part + c, sum);
      });
}

// All tiles together, in double: the mean features and the masses, a thread for each mean.
template <bool over_pixels>
LM_KERNEL(product_threads, 1)
landmark_pool_finish(PoolPartials from, int tiles, int channels, int features, int64_t values, double eps,
                     float* pooled, float* mass) {
  const int64_t i = int64_t(blockIdx.x) * product_threads + threadIdx.x;
  if (i >= values) return;
  const int64_t n = i / (int64_t(channels) * features);
  const int at = int(i - n * channels * features), c = at / features;
  const float highest = over_pixels ? highest_peak(from.peak + n * tiles * channels + c, tiles, channels) : 0.f;
  double sum = 0, total = 0;
  for (int t = 0; t < tiles; ++t) {
    const int64_t part = (n * tiles + t) * channels + c;
    const double weight = over_pixels ? weight_of_tile(from.peak + part, highest, true) : 1.0;
    sum += weight * double(load(from.pooled + part * features + at % features));
    total += weight * double(load(from.mass + part));
  }
  const double divisor = over_pixels ? (total == 0 ? 1 : total) : total + eps;
  store(pooled + i, float(sum / divisor));
  if (at % features == 0) store(mass + n * channels + c, float(over_pixels ? total / divisor : total));
}

// What the backward pass is given besides maps, contiguous; gradients may be null.
struct PoolGradient {
  const float *grad_pooled, *grad_mass, *pooled, *mass;
  double eps;
};

// Both gradients of a tile: dF = sum_c g q and dz = q (h - sum q h) / T with h = sum_s g F + base. Shared memory:
// weights, features (then their gradient), coefficients, base, and R = 0 channels of h where registers have not enough.
template <class S, bool over_pixels, int R>
LM_KERNEL(product_threads, 2)
landmark_pool_backward_map(Map<S> features, Map<S> logits, Map<S> grad_features, Map<S> grad_logits, bool need_features,
                           bool need_logits, Tiling tiling, PoolBlock block, float scale, float inverse_temperature,
                           Partials partials, int parts, PoolGradient given) {
  LM_DYNAMIC_SHARED(float, q);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x;
  const int channels = logits.channels, all = features.channels;
  const int64_t n = blockIdx.x / tiles;
  const auto f = q + channels * block.pitch;
  const auto g = f + features_numbers(block);
  const auto base = g + block.features * channels, factor = base + channels, peaks = factor + channels;
  const QuadThread t = quad_thread(block.pixels);
  for (int c = thread / 32; c < channels; c += product_threads / 32) {
    const int64_t k = n * channels + c;
    double inverse = 1 / pool_divisor(double(load(given.mass + k)), given.eps, over_pixels), along = 0;
    if (given.grad_pooled)
      for (int s = thread % 32; s < all; s += 32)
        along += double(load(given.grad_pooled + k * all + s)) * inverse * double(load(given.pooled + k * all + s));
    along = warp_sum(along);
    if (thread % 32) continue;
    base[c] = float(pool_gradient_base(along, given.grad_mass ? double(load(given.grad_mass + k)) : 0.0, over_pixels));
    if (over_pixels) {
      const ChannelPeak found = channel_peak(partials, n, parts, c);
      peaks[c] = found.peak;
      inverse = found.inverse;
    }
    factor[c] = float(inverse);
  }
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, 0, channels);
    if (s.y >= logits.height) break;
    __syncthreads();
    load_step<product_threads>(logits, s, q, block.pitch);
    __syncthreads();
    if (over_pixels)
      weights_of_step(
          q, channels, block, s, logits.height, logits.width, scale, [&](int c) { return float(peaks[c]); },
          [&](int c) { return float(factor[c]); });
    else
      softmax_of_step(q, channels, block, s, logits.height, logits.width, scale);
    float h[R][4] = {};
    for (int first = 0; first < all; first += block.features) {
      const int count = all - first < block.features ? all - first : block.features;
      const Step of_features = {n, first, count, s.x, s.y, s.columns, s.rows};
      __syncthreads();
      for (int i = thread; i < channels * count; i += product_threads) {
        const int c = i / count, j = i - c * count;
        const float by = or_zero(given.grad_pooled, (n * channels + c) * all + first + j);
        g[j * channels + c] = over_pixels ? by : by * factor[c];
      }
      if (need_logits) {
        load_whole_step(features, of_features, f, block.pitch, block.pixels);
        __syncthreads();
        back<R>(h, t, g, channels, channels, f, count, block.pitch);
      }
      __syncthreads();
      if (need_features) {
        spread(f, t, g, channels, count, q, channels, block.pitch);
        __syncthreads();
        store_step<product_threads>(grad_features, of_features, f, block.pitch);
      }
    }
    if (!need_logits) continue;
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int c = t.row + r * t.rows;
      if (c >= channels) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) h[r][i] += base[c];
    }
    float expected[4] = {};
    if (!over_pixels) sum_over_channels(expected, h, t, q, channels, block.pitch, block.pixels, f);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int c = t.row + r * t.rows;
      if (c >= channels) break;
      Vector<float, 4> weights = load_shared<4>(q + c * block.pitch + 4 * t.quad);
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[i] *= (h[r][i] - expected[i]) * inverse_temperature;
      store_shared<4>(q + c * block.pitch + 4 * t.quad, weights);
    }
    __syncthreads();
    store_step<product_threads>(grad_logits, s, q, block.pitch);
  }
}

}  // namespace lmdis
