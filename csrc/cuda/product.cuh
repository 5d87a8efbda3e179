// Products of a block's tiles in shared memory: weights q (channels x pixels), features f (features x pixels) and
// coefficients g (features x channels), each row at a pitch. Pooling, spreading and their gradients are made of three:
// pool(c, s) = sum_p q f, back(c, p) = sum_s g f, spread(s, p) = sum_c g q.
#pragma once

#include "reduce.cuh"
#include "tile.cuh"

namespace lmdis {

constexpr int product_threads = 256;

// pool: a thread owns 4 x 4 results for its share of the pixels. Rows of a thread are far apart, so that neighbouring
// threads read neighbouring banks.
struct PoolThread {
  int rows_c, rows_s, groups, group, c, s;
};
LM_FUNCTION int pool_units(int channels, int features) { return ((channels + 3) / 4) * ((features + 3) / 4); }
LM_DEVICE PoolThread pool_thread(int channels, int features) {
  const int rows_c = (channels + 3) / 4, rows_s = (features + 3) / 4, units = rows_c * rows_s;
  const int group = threadIdx.x / units, unit = threadIdx.x - group * units;
  return {rows_c, rows_s, product_threads / units, group, unit / rows_s, unit % rows_s};
}

struct Pooled {
  float sums[4][4], mass[4];
};
LM_DEVICE void pool(Pooled& to, const PoolThread& t, LM_SHARED_POINTER(float) q, int channels,
                    LM_SHARED_POINTER(float) f, int features, int pitch, int pixels) {
  if (t.group >= t.groups) return;
  for (int quad = t.group; quad < pixels / 4; quad += t.groups) {
    Vector<float, 4> weights[4];
#pragma unroll
    for (int a = 0; a < 4; ++a) {
      const int c = t.c + a * t.rows_c;
      weights[a] = load_shared<4>(q + (c < channels ? c : t.c) * pitch + 4 * quad);
      to.mass[a] += (weights[a][0] + weights[a][1]) + (weights[a][2] + weights[a][3]);
    }
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int s = t.s + b * t.rows_s;
      const Vector<float, 4> values = load_shared<4>(f + (s < features ? s : t.s) * pitch + 4 * quad);
#pragma unroll
      for (int a = 0; a < 4; ++a)
#pragma unroll
        for (int i = 0; i < 4; ++i) to.sums[a][b] += weights[a][i] * values[i];
    }
  }
}

// Numbers of shared memory that give() needs.
constexpr int pool_scratch = 20 * product_threads;
// Sums over the groups, in a fixed order: every result goes to result(c, s, sum), every channel's to mass(c, sum).
template <class Result, class Mass>
LM_DEVICE void give(const Pooled& from, const PoolThread& t, int channels, int features,
                    LM_SHARED_POINTER(float) scratch, Result result, Mass mass) {
  const int thread = threadIdx.x, units = t.rows_c * t.rows_s;
  __syncthreads();
#pragma unroll
  for (int a = 0; a < 4; ++a) {
#pragma unroll
    for (int b = 0; b < 4; ++b) scratch[(4 * a + b) * product_threads + thread] = from.sums[a][b];
    scratch[(16 + a) * product_threads + thread] = from.mass[a];
  }
  __syncthreads();
  for (int i = thread; i < channels * features; i += product_threads) {
    const int c = i / features, s = i - c * features;
    const int a = c / t.rows_c, b = s / t.rows_s;
    const int unit = (c - a * t.rows_c) * t.rows_s + s - b * t.rows_s;
    float sum = 0;
    for (int group = 0; group < t.groups; ++group) sum += scratch[(4 * a + b) * product_threads + group * units + unit];
    result(c, s, sum);
  }
  for (int c = thread; c < channels; c += product_threads) {
    const int a = c / t.rows_c;
    float sum = 0;
    for (int group = 0; group < t.groups; ++group)
      sum += scratch[(16 + a) * product_threads + group * units + (c - a * t.rows_c) * t.rows_s];
    mass(c, sum);
  }
}

// back and spread: a thread owns 4 pixels of a few rows, `rows` apart.
struct QuadThread {
  int quad, row, rows;
};
LM_DEVICE QuadThread quad_thread(int pixels) {
  const int quads = pixels / 4;
  return {int(threadIdx.x) % quads, int(threadIdx.x) / quads, product_threads / quads};
}

// back, added to R channels of 4 pixels. `pitch_g` is that of g's rows, one for each feature.
template <int R>
LM_DEVICE void back(float (&to)[R][4], const QuadThread& t, LM_SHARED_POINTER(float) g, int pitch_g, int channels,
                    LM_SHARED_POINTER(float) f, int features, int pitch) {
#pragma unroll 2
  for (int s = 0; s < features; ++s) {
    const Vector<float, 4> values = load_shared<4>(f + s * pitch + 4 * t.quad);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int c = t.row + r * t.rows;
      if (c >= channels) break;
      const float by = g[s * pitch_g + c];
#pragma unroll
      for (int i = 0; i < 4; ++i) to[r][i] += by * values[i];
    }
  }
}

// spread, of up to 4 features of 4 pixels a thread, to rows at `to` of the same pitch as the weights.
LM_DEVICE void spread(LM_SHARED_POINTER(float) to, const QuadThread& t, LM_SHARED_POINTER(float) g, int pitch_g,
                      int features, LM_SHARED_POINTER(float) q, int channels, int pitch) {
  float sums[4][4] = {};
#pragma unroll 2
  for (int c = 0; c < channels; ++c) {
    const Vector<float, 4> weights = load_shared<4>(q + c * pitch + 4 * t.quad);
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int s = t.row + b * t.rows;
      if (s >= features) break;
      const float by = g[s * pitch_g + c];
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[b][i] += by * weights[i];
    }
  }
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const int s = t.row + b * t.rows;
    if (s < features) store_shared<4>(to + s * pitch + 4 * t.quad, {sums[b][0], sums[b][1], sums[b][2], sums[b][3]});
  }
}

// sum_c q h of 4 pixels over all channels, of which each thread has R of h, the same in all threads of these pixels;
// through 4 numbers a thread of shared memory, which nobody else uses then. Every thread of the block calls it.
template <int R>
LM_DEVICE void sum_over_channels(float (&to)[4], const float (&h)[R][4], const QuadThread& t,
                                 LM_SHARED_POINTER(float) q, int channels, int pitch, int pixels,
                                 LM_SHARED_POINTER(float) scratch) {
  float own[4] = {};
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int c = t.row + r * t.rows;
    if (c >= channels) break;
    const Vector<float, 4> weights = load_shared<4>(q + c * pitch + 4 * t.quad);
#pragma unroll
    for (int i = 0; i < 4; ++i) own[i] += weights[i] * h[r][i];
  }
  store_shared<4>(scratch + t.row * pixels + 4 * t.quad, {own[0], own[1], own[2], own[3]});
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = 0;
  for (int row = 0; row < t.rows; ++row) {
    const Vector<float, 4> part = load_shared<4>(scratch + row * pixels + 4 * t.quad);
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] += part[i];
  }
}

// Sum over the threads that own other pixels of the same rows; the same in all of them.
LM_DEVICE float sum_of_quads(float value, int pixels) {
  for (int mask = pixels / 8; mask > 0; mask >>= 1) value += __shfl_xor_sync(all_lanes, value, mask);
  return value;
}

// A step of features, zero where the step has no pixel of the map. Every thread of the block calls it.
template <class S>
LM_DEVICE void load_whole_step(const Map<S>& map, const Step& s, LM_SHARED_POINTER(float) to, int pitch, int pixels) {
  if (!is_whole(map, s, pixels)) {
    for (int i = threadIdx.x; i < s.count * pitch; i += product_threads) to[i] = 0;
    __syncthreads();
  }
  load_step<product_threads>(map, s, to, pitch);
}

}  // namespace lmdis
