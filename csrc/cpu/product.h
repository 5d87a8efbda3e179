// Small matrix products over the pixels of a tile: features by weights, in registers.
#pragma once

#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// Calls visit(constant<size>{}, first) for blocks of at most `most` that cover `count`, as even as they can be.
template <int most, class Visit>
LM_FUNCTION void with_size(int size, int first, Visit& visit) {
  if constexpr (most > 1)
    if (size < most) return with_size<most - 1>(size, first, visit);
  visit(constant<most>{}, first);
}
template <int most, class Visit>
LM_FUNCTION void in_blocks(int count, Visit visit) {
  const int blocks = (count + most - 1) / most;
  for (int first = 0, left = blocks; first < count; --left) {
    const int size = (count - first + left - 1) / left;
    with_size<most>(size, first, visit);
    first += size;
  }
}

// Sums over pixels of one feature after the other, each in a few parts, so that 4 of them make a vector.
template <class A>
struct Sums {
  enum { parts = lanes<A>::count >= 4 ? lanes<A>::count / 4 : 1 };
  // From one channel to the next; what is added to the last feature may reach 3 further.
  LM_FUNCTION int64_t pitch(int64_t features) { return (features + 3) * parts; }
  LM_FUNCTION void add(A* at, const vec<A> (&totals)[4]) {
    if constexpr (lanes<A>::count >= 4) {
      store(at, load(at) + in_quarters<A>(totals));
    } else {
      for (int i = 0; i < 4; ++i) at[i] += sum_lanes<A>(totals[i]);
    }
  }
  LM_FUNCTION A of(const A* sums, int64_t features, int64_t k, int64_t s) {
    const A* at = sums + k * pitch(features) + s * parts;
    A sum = at[0];
    for (int i = 1; i < parts; ++i) sum += at[i];
    return sum;
  }
};

// sums[k][s] += sum_p q[k][p] f[s][p], over whole vectors of pixels. Of `fetched` planes from `next` on as many pixels
// are brought nearer.
template <class A, class F, int K, int S>
LM_FUNCTION void pool_block(const A* q, int64_t q_pitch, const F* f, int64_t f_pitch, int length, A* sums,
                            int64_t sums_pitch, const F* next, int fetched) {
  const int V = lanes<A>::count;
  vec<A> total[K][4] = {};
  for (int p = 0; p < length; p += V) {
    vec<A> feature[S];
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      if (s < fetched) fetch(next + s * f_pitch + p);
      feature[s] = load(f + s * f_pitch + p);
    }
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const vec<A> weight = rounded(load(q + k * q_pitch + p));  // one load, where g++ would make S
#pragma GCC unroll 8
      for (int s = 0; s < S; ++s) total[k][s] += weight * feature[s];
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) Sums<A>::add(sums + k * sums_pitch, total[k]);
}

// The same for any number of channels and features; `length` is a multiple of the lanes. What will be read next lies
// `ahead` elements on (0: in the cache already); each block of channels fetches its share of it.
template <class A, class F>
static void pool(const A* q, int64_t q_pitch, int channels, const F* f, int64_t f_pitch, int features, int length,
                 A* sums, int64_t ahead) {
  constexpr int most = LM_BYTES >= 64 ? 6 : 3;  // registers: most * 4 sums, 4 features, one weight
  const int64_t pitch = Sums<A>::pitch(features);
  in_blocks<most>(channels, [&](auto k, int first_k) {
    in_blocks<4>(features, [&](auto s, int first_s) {
      constexpr int K = decltype(k)::value, S = decltype(s)::value;
      const int from = first_k * S / channels, to = (first_k + K) * S / channels;
      const F* at = f + first_s * f_pitch;
      pool_block<A, F, K, S>(q + first_k * q_pitch, q_pitch, at, f_pitch, length,
                             sums + first_k * pitch + first_s * Sums<A>::parts, pitch, at + from * f_pitch + ahead,
                             ahead ? to - from : 0);
    });
  });
}

// out[j][p] = sum_i weights[i * step_i + j * step_j] in[i][p] for J outputs and G vectors at one place.
template <class O, bool streaming, class A, class I, int J, int G>
LM_FUNCTION void spread_block(const A* weights, int64_t step_i, int64_t step_j, const I* in, int64_t in_pitch,
                              int inputs, O* out, int64_t out_pitch, int some, int64_t ahead) {
  const int V = lanes<A>::count;
  vec<A> total[J][G] = {};
  for (int i = 0; i < inputs; ++i) {
    vec<A> value[G];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      if (ahead && g * V * sizeof(I) % 64 == 0) fetch(in + i * in_pitch + g * V + ahead);
      value[g] = load(in + i * in_pitch + g * V);
    }
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) total[j][g] += weights[i * step_i + j * step_j] * value[g];
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
      if (streaming)
        stream(out + j * out_pitch + g * V, total[j][g]);
      else if (G > 1 || some >= V)
        store(out + j * out_pitch + g * V, total[j][g]);
      else
        store_some(out + j * out_pitch, total[j][g], some);
}

template <class O, bool streaming, class A, class I, int J>
LM_FUNCTION void spread_rows(const A* weights, int64_t step_i, int64_t step_j, const I* in, int64_t in_pitch,
                             int inputs, O* out, int64_t out_pitch, int length, bool fetches) {
  const int V = lanes<A>::count;
  constexpr int G = LM_BYTES >= 64 ? 4 : 2;
  const int64_t ahead = fetches ? 2 * G * V : 0;
  int p = 0;
  for (; p + G * V <= length; p += G * V)
    spread_block<O, streaming, A, I, J, G>(weights, step_i, step_j, in + p, in_pitch, inputs, out + p, out_pitch, V,
                                           ahead);
  for (; p < length; p += V)
    spread_block<O, streaming, A, I, J, 1>(weights, step_i, step_j, in + p, in_pitch, inputs, out + p, out_pitch,
                                           length - p, 0);
}

// The same for any number of outputs and `length` pixels, stored as O; inputs are read in whole vectors, from memory
// if this `fetches`.
template <class O, bool streaming = false, class A, class I>
static void spread(const A* weights, int64_t step_i, int64_t step_j, const I* in, int64_t in_pitch, int inputs, O* out,
                   int64_t out_pitch, int outputs, int length, bool fetches = false) {
  constexpr int J = LM_BYTES >= 64 ? 6 : 4;
  in_blocks<J>(outputs, [&](auto j, int first) {
    spread_rows<O, streaming, A, I, decltype(j)::value>(weights + first * step_j, step_i, step_j, in, in_pitch, inputs,
                                                        out + first * out_pitch, out_pitch, length, fetches && !first);
  });
}

// Calls visit(planes, pitch, ahead) with some planes of a tile: in place where their pixels are whole vectors side by
// side, and converted where they are used; else staged as the arithmetic type. `ahead` elements on lies the tile below
// (0 for a buffer).
template <class S, class Visit>
LM_FUNCTION void with_planes(const Maps& maps, const Tile& tile, int64_t first, int count, arithmetic<S>* buffer,
                             int64_t buffer_pitch, arithmetic<S>* scratch, Visit visit) {
  if (layout_of(maps) == Layout::planar && tile.pitch == tile.columns &&
      (tile.rows == 1 || maps.stride_h == tile.columns))
    return visit(static_cast<const S*>(address<S>(maps, tile.n, first, tile.y, tile.x)), maps.stride_c,
                 tile.rows * maps.stride_h);
  stage<S>(maps, tile, first, count, buffer, buffer_pitch, scratch);
  visit(static_cast<const arithmetic<S>*>(buffer), buffer_pitch, int64_t(0));
}

// Whether features are pooled pixel by pixel, with lanes that are features: the channels of a pixel lie side by side.
template <class S>
LM_FUNCTION bool pools_pixels(const Maps& maps) {
  return layout_of(maps) == Layout::interleaved && maps.c % lanes<arithmetic<S>>::count == 0;
}

// sums[k][s] += sum_p q[k][p] f[p][s] for K channels and F vectors of features, over one row.
template <class S, int K, int F>
LM_FUNCTION void pool_pixels_block(const arithmetic<S>* q, int64_t q_pitch, const S* f, int64_t step, int length,
                                   arithmetic<S>* sums, int64_t sums_pitch) {
  using A = arithmetic<S>;
  const int V = lanes<A>::count;
  vec<A> total[K][F];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
    for (int s = 0; s < F; ++s) total[k][s] = load(sums + k * sums_pitch + s * V);
  for (int p = 0; p < length; ++p) {
    vec<A> feature[F];
#pragma GCC unroll 8
    for (int s = 0; s < F; ++s) feature[s] = load(f + p * step + s * V);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
      for (int s = 0; s < F; ++s) total[k][s] += q[k * q_pitch + p] * feature[s];
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
    for (int s = 0; s < F; ++s) store(sums + k * sums_pitch + s * V, total[k][s]);
}

// The same for all channels and features of a tile; sums is [k][s].
template <class S>
static void pool_pixels(const arithmetic<S>* q, int64_t q_pitch, int channels, const Maps& maps, const Tile& tile,
                        arithmetic<S>* sums) {
  constexpr int K = LM_BYTES >= 64 ? 6 : 3, V = lanes<arithmetic<S>>::count;
  for (int r = 0; r < tile.rows; ++r) {
    const S* row = address<S>(maps, tile.n, 0, tile.y + r, tile.x);
    in_blocks<4>(int(maps.c) / V, [&](auto s, int first_s) {
      in_blocks<K>(channels, [&](auto k, int first_k) {
        pool_pixels_block<S, decltype(k)::value, decltype(s)::value>(q + first_k * q_pitch + r * tile.pitch, q_pitch,
                                                                     row + first_s * V, maps.stride_w, tile.columns,
                                                                     sums + first_k * maps.c + first_s * V, maps.c);
      });
    });
  }
}

// Adds a tile's features times the weights q, in whichever way suits the layout; pooled_sum reads the result.
template <class S>
LM_FUNCTION void pool_tile(const arithmetic<S>* q, int64_t q_pitch, int channels, const Maps& maps, const Tile& tile,
                           arithmetic<S>* sums, arithmetic<S>* buffer, arithmetic<S>* scratch) {
  if (pools_pixels<S>(maps)) return pool_pixels<S>(q, q_pitch, channels, maps, tile, sums);
  with_planes<S>(maps, tile, 0, int(maps.c), buffer, q_pitch, scratch,
                 [&](const auto* f, int64_t pitch, int64_t ahead) {
                   pool(q, q_pitch, channels, f, pitch, int(maps.c), tile.rows * tile.pitch, sums, ahead);
                 });
}
template <class S>
LM_FUNCTION arithmetic<S> pooled_sum(const Maps& maps, const arithmetic<S>* sums, int64_t k, int64_t s) {
  return pools_pixels<S>(maps) ? sums[k * maps.c + s] : Sums<arithmetic<S>>::of(sums, maps.c, k, s);
}

// out[j] of a tile of a tensor = sum_i weights in[i], written in its layout.
template <class S>
static void spread_to(const Maps& maps, const Tile& tile, const arithmetic<S>* weights, int64_t step_i, int64_t step_j,
                      const arithmetic<S>* in, int64_t in_pitch, int inputs, int64_t first, int outputs,
                      arithmetic<S>* buffer, int64_t buffer_pitch, arithmetic<S>* scratch, Writing writing) {
  using A = arithmetic<S>;
  if (writing == Writing::runs) {
    for (int j = 0, some; j < outputs; j += some) {
      some = outputs - j < 4 ? outputs - j : 4;
      spread<A>(weights + j * step_j, step_i, step_j, in, in_pitch, inputs, buffer, buffer_pitch, some,
                tile.rows * tile.pitch);
      unstage<S>(maps, tile, first + j, some, buffer, buffer_pitch, scratch, true);
    }
    return;
  }
  if (layout_of(maps) == Layout::planar) {
    const Runs runs = runs_of(maps, tile);
    for (int run = 0; run < runs.count; ++run) {
      const A* from = in + run * tile.pitch;
      S* to = address<S>(maps, tile.n, first, tile.y + run, tile.x);
      if (writing == Writing::vectors)
        spread<S, true>(weights, step_i, step_j, from, in_pitch, inputs, to, maps.stride_c, outputs, runs.length);
      else
        spread<S, false>(weights, step_i, step_j, from, in_pitch, inputs, to, maps.stride_c, outputs, runs.length);
    }
    return;
  }
  spread<A>(weights, step_i, step_j, in, in_pitch, inputs, buffer, buffer_pitch, outputs, tile.rows * tile.pitch);
  unstage<S>(maps, tile, first, outputs, buffer, buffer_pitch, scratch);
}

}  // namespace LM_ISA
}  // namespace lmdis
