// Small matrix products over the pixels of a tile: features by weights, in registers.
#pragma once

#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// sums[k][s] (vectors, lane by lane) += sum_p q[k][p] f[s][p], over whole vectors of pixels.
template <class A, int K, int S>
LM_FUNCTION void pool_block(const A* q, int64_t q_pitch, const A* f, int64_t f_pitch, int length, A* sums,
                            int64_t sums_pitch) {
  const int V = lanes<A>::count;
  vec<A> total[K][S];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) total[k][s] = load(sums + k * sums_pitch + s * V);
  for (int p = 0; p < length; p += V) {
    vec<A> feature[S];
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) feature[s] = load(f + s * f_pitch + p);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const vec<A> weight = load(q + k * q_pitch + p);
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) total[k][s] += weight * feature[s];
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) store(sums + k * sums_pitch + s * V, total[k][s]);
}

// The same for any number of channels and features; `length` is a multiple of the lanes, sums is [k][s][lane].
template <class A>
static void pool(const A* q, int64_t q_pitch, int channels, const A* f, int64_t f_pitch, int features, int length,
                 A* sums) {
  const int V = lanes<A>::count;
  constexpr int K = LM_BYTES >= 64 ? 4 : 2, S = 4;
  const int64_t pitch = int64_t(features) * V;
  for (int s = 0; s < features;) {
    const int some = features - s >= S ? S : 1;
    for (int k = 0; k < channels;) {
      const int rows = channels - k >= K ? K : 1;
      const A *weights = q + k * q_pitch, *planes = f + s * f_pitch;
      A* at = sums + k * pitch + s * V;
      if (rows == K && some == S)
        pool_block<A, K, S>(weights, q_pitch, planes, f_pitch, length, at, pitch);
      else if (rows == K)
        pool_block<A, K, 1>(weights, q_pitch, planes, f_pitch, length, at, pitch);
      else if (some == S)
        pool_block<A, 1, S>(weights, q_pitch, planes, f_pitch, length, at, pitch);
      else
        pool_block<A, 1, 1>(weights, q_pitch, planes, f_pitch, length, at, pitch);
      k += rows;
    }
    s += some;
  }
}

// out[j][p] = sum_i weights[i * step_i + j * step_j] in[i][p] for J outputs and G vectors at one place.
template <class O, class A, int J, int G>
LM_FUNCTION void spread_block(const A* weights, int64_t step_i, int64_t step_j, const A* in, int64_t in_pitch,
                              int inputs, O* out, int64_t out_pitch, int some) {
  const int V = lanes<A>::count;
  vec<A> total[J][G] = {};
  for (int i = 0; i < inputs; ++i) {
    vec<A> value[G];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) value[g] = load(in + i * in_pitch + g * V);
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) total[j][g] += weights[i * step_i + j * step_j] * value[g];
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
      if (G > 1 || some >= V)
        store(out + j * out_pitch + g * V, total[j][g]);
      else
        store_some(out + j * out_pitch, total[j][g], some);
}

template <class O, class A, int J>
LM_FUNCTION void spread_rows(const A* weights, int64_t step_i, int64_t step_j, const A* in, int64_t in_pitch,
                             int inputs, O* out, int64_t out_pitch, int length) {
  const int V = lanes<A>::count;
  int p = 0;
  for (; p + 2 * V <= length; p += 2 * V)
    spread_block<O, A, J, 2>(weights, step_i, step_j, in + p, in_pitch, inputs, out + p, out_pitch, V);
  for (; p < length; p += V)
    spread_block<O, A, J, 1>(weights, step_i, step_j, in + p, in_pitch, inputs, out + p, out_pitch, length - p);
}

// The same for any number of outputs and `length` pixels, stored as O; inputs are read in whole vectors.
template <class O, class A>
static void spread(const A* weights, int64_t step_i, int64_t step_j, const A* in, int64_t in_pitch, int inputs, O* out,
                   int64_t out_pitch, int outputs, int length) {
  constexpr int J = LM_BYTES >= 64 ? 6 : 4;
  int j = 0;
  for (; j + J <= outputs; j += J)
    spread_rows<O, A, J>(weights + j * step_j, step_i, step_j, in, in_pitch, inputs, out + j * out_pitch, out_pitch,
                         length);
  if (j + 2 < outputs) {
    spread_rows<O, A, 3>(weights + j * step_j, step_i, step_j, in, in_pitch, inputs, out + j * out_pitch, out_pitch,
                         length);
    j += 3;
  }
  for (; j < outputs; ++j)
    spread_rows<O, A, 1>(weights + j * step_j, step_i, step_j, in, in_pitch, inputs, out + j * out_pitch, out_pitch,
                         length);
}

// Some planes of a tile, read in place where they are float or double, side by side and whole vectors; else staged.
template <class A>
struct Planes {
  const A* data;
  int64_t pitch;
};
template <class S>
LM_FUNCTION Planes<arithmetic<S>> planes_of(const Maps& maps, const Tile& tile, int64_t first, int count,
                                            arithmetic<S>* buffer, int64_t buffer_pitch, arithmetic<S>* scratch) {
  using A = arithmetic<S>;
  if (sizeof(S) == sizeof(A) && layout_of(maps) == Layout::planar && tile.pitch == tile.columns &&
      (tile.rows == 1 || maps.stride_h == tile.columns))
    return {reinterpret_cast<const A*>(address<S>(maps, tile.n, first, tile.y, tile.x)), maps.stride_c};
  stage<S>(maps, tile, first, count, buffer, buffer_pitch, scratch);
  return {buffer, buffer_pitch};
}

// out[j] of a tile of a tensor = sum_i weights in[i], written in its layout.
template <class S>
static void spread_to(const Maps& maps, const Tile& tile, const arithmetic<S>* weights, int64_t step_i, int64_t step_j,
                      const arithmetic<S>* in, int64_t in_pitch, int inputs, int64_t first, int outputs,
                      arithmetic<S>* buffer, int64_t buffer_pitch, arithmetic<S>* scratch) {
  using A = arithmetic<S>;
  if (layout_of(maps) == Layout::planar) {
    const Runs runs = runs_of(maps, tile);
    for (int run = 0; run < runs.count; ++run)
      spread<S, A>(weights, step_i, step_j, in + run * tile.pitch, in_pitch, inputs,
                   address<S>(maps, tile.n, first, tile.y + run, tile.x), maps.stride_c, outputs, runs.length);
    return;
  }
  spread<A, A>(weights, step_i, step_j, in, in_pitch, inputs, buffer, buffer_pitch, outputs, tile.rows * tile.pitch);
  unstage<S>(maps, tile, first, outputs, buffer, buffer_pitch, scratch);
}

}  // namespace LM_ISA
}  // namespace lmdis
