// The softmax over channels of a tile of pixels, shared by heatmap_moments and landmark_pool.
#pragma once

#include "exponential.h"
#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// exp(x * inverse_temperature) for x <= 0, with one multiplication; near() for any x whose square is at most `reach`.
template <class A>
struct Exponential;
template <>
struct Exponential<float> {
  float factor, lowest, reach;
  LM_FUNCTION Exponential make(double inverse_temperature) {
    const double factor = inverse_temperature * 1.4426950408889634, reach = 3600 / (factor * factor);
    // squares below the smallest number, 0 in float, are not looked at where they could matter
    return {float(factor), float(-127.2 / factor), factor > 1e15 ? -1.f : reach < 3e38 ? float(reach) : 3e38f};
  }
  __attribute__((always_inline)) vec<float> near(vec<float> x) const { return exp2_near(x, splat(factor)); }
  __attribute__((always_inline)) vec<float> operator()(vec<float> x) const {
    x = maximum(splat(lowest), x);
    return exp2_product(x, splat(factor));
  }
};
template <>
struct Exponential<double> {
  double factor, lowest;
  LM_FUNCTION Exponential make(double inverse_temperature) {
    return {inverse_temperature, -709.2 / inverse_temperature};
  }
  __attribute__((always_inline)) vec<double> operator()(vec<double> x) const {
    return exp_negative(maximum(splat(lowest), x) * factor);
  }
};

// The softmax over channels of one tile after the other.
//
// Tensors are read in runs of one plane after the other: planes of 64 or 128 pixels a side are whole pages apart, so
// that the same pixel of all of them falls on the same few lines of each cache, where what is fetched ahead would be
// lost.
template <class S>
struct ChannelSoftmax {
  using A = arithmetic<S>;
  enum { V = lanes<A>::count, run_of_plane = 512 };
  Maps logits;
  Exponential<A> exponential;
  int64_t plane_pitch;  // of the weights
  A* staging;

  // weights[c * plane_pitch + r * tile.pitch + x] = exp((z - max) / T) and inverse[r * tile.pitch + x] = 1 / sum: 0
  // where all channels are -inf, and between the tile's columns and its pitch.
  void run(const Tile& tile, A* weights, A* inverse) const {
    const bool planar = layout_of(logits) == Layout::planar;
    if (!planar) stage<S>(logits, tile, 0, int(logits.c), weights, plane_pitch, staging);
    const Runs runs = planar ? runs_of(logits, tile) : Runs{tile.rows, tile.columns};
    for (int run = 0; run < runs.count; ++run) {
      A *w = weights + run * tile.pitch, *inv = inverse + run * tile.pitch;
      const S* z = planar ? address<S>(logits, tile.n, 0, tile.y + run, tile.x) : nullptr;
      int at = 0;
      if constexpr (sizeof(A) == 4)
        if (planar) {
          const S* below = z + (run + 1 < runs.count ? 1 : tile.rows - run) * logits.stride_h;
          for (; at + V <= runs.length; at += run_of_plane) {
            const int rest = (runs.length - at) / V * V, length = rest < run_of_plane ? rest : int(run_of_plane);
            near_run(z + at, rest > length ? z + at + length : below, w + at, inv + at, length);
          }
          at = runs.length / V * V;
        }
      for (; at + 2 * V <= runs.length; at += 2 * V) group<2>(z ? z + at : nullptr, w + at, inv + at, V);
      for (; at < runs.length; at += V)
        group<1>(z ? z + at : nullptr, w + at, inv + at, runs.length - at < V ? runs.length - at : int(V));
    }
  }

 private:
  // `group` for a run of whole vectors with logits so near 0, as most are, that no maximum has to be taken away from
  // them first: one pass instead of two. Then `next` is read.
  void near_run(const S* z, const S* next, A* weights, A* inverse, int length) const {
    alignas(64) A squares[run_of_plane];  // whose sum over the channels is at least the largest
    const int channels = int(logits.c), first = channels % 3 == 0 ? 3 : channels % 3;
    const auto after = [ =, this ](int c) __attribute__((always_inline)) {
      return c < channels ? z + c * logits.stride_c : next;
    };
    if (first == 1)
      near_channels<1, true>(z, after(1), weights, inverse, squares, length);
    else if (first == 2)
      near_channels<2, true>(z, after(2), weights, inverse, squares, length);
    else
      near_channels<3, true>(z, after(3), weights, inverse, squares, length);
    for (int c = first; c < channels; c += 3)
      near_channels<3, false>(z + c * logits.stride_c, after(c + 3), weights + c * plane_pitch, inverse, squares,
                              length);
    for (int x = 0; x < length; x += V)
      if (any(~(load(squares + x) <= exponential.reach)))  // NaN is not near
        group<1>(z + x, weights + x, inverse + x, V);
      else
        store(inverse + x, splat(A(1)) / load(inverse + x));
  }

  // C channels of a run: weights[c] = exp(z[c] / T), sums += weights[c], squares += z[c]^2, or the first of them; and
  // the same place of `next` is fetched.
  template <int C, bool first>
  __attribute__((always_inline)) void near_channels(const S* z, const S* next, A* weights, A* sums, A* squares,
                                                    int length) const {
    constexpr int line = 64 / sizeof(S);
    const int64_t stride = logits.stride_c, pitch = plane_pitch;  // copies, which what is stored cannot change
    const Exponential<A> exponential = this->exponential;
    const auto at = [=](int x) __attribute__((always_inline)) {
      vec<A> sum = first ? vec<A>{} : load(sums + x), square = first ? vec<A>{} : load(squares + x);
#pragma GCC unroll 3
      for (int c = 0; c < C; ++c) {
        const vec<A> fresh = load(z + c * stride + x);
        square += fresh * fresh;
        const vec<A> e = exponential.near(fresh);
        store(weights + c * pitch + x, e);
        sum += e;
      }
      store(sums + x, sum);
      store(squares + x, square);
    };
    int x = 0;
    for (; x + line <= length; x += line) {
#pragma GCC unroll 3
      for (int c = 0; c < C; ++c) fetch(next + c * stride + x);
#pragma GCC unroll 4
      for (int g = 0; g < line; g += V) at(x + g);
    }
    for (; x < length; x += V) at(x);
  }

  // Vectors at one place of all planes, from `z` or, without it, from the weights themselves; of a last vector only
  // `some` lanes are pixels.
  template <int vectors>
  __attribute__((always_inline)) void group(const S* z, A* weights, A* inverse, int some) const {
    const int channels = int(logits.c);
    const vec<A> lowest = splat(-A(__builtin_inf()));
    vec<A> top[vectors], sum[vectors];
#pragma GCC unroll 8
    for (int g = 0; g < vectors; ++g) top[g] = lowest, sum[g] = vec<A>{};
    if (z)
      for (int c = 0; c < channels; ++c)
#pragma GCC unroll 8
        for (int g = 0; g < vectors; ++g) {
          const S* from = z + c * logits.stride_c + g * V;
          const vec<A> fresh = vectors == 1 && some < V ? load_some(from, some) : load(from);
          top[g] = maximum(top[g], fresh);
          store(weights + c * plane_pitch + g * V, fresh);
        }
    else
      for (int c = 0; c < channels; ++c)
#pragma GCC unroll 8
        for (int g = 0; g < vectors; ++g) top[g] = maximum(top[g], load(weights + c * plane_pitch + g * V));
#pragma GCC unroll 8
    for (int g = 0; g < vectors; ++g) top[g] = top[g] == lowest ? vec<A>{} : top[g];
    for (int c = 0; c < channels; ++c)
#pragma GCC unroll 8
      for (int g = 0; g < vectors; ++g) {
        A* weight = weights + c * plane_pitch + g * V;
        const vec<A> e = exponential(load(weight) - top[g]);
        store(weight, e);
        sum[g] += e;
      }
#pragma GCC unroll 8
    for (int g = 0; g < vectors; ++g) {
      vec<A> one = splat(A(1));
      if (vectors == 1 && some < V)
        for (int i = some; i < V; ++i) one[i] = 0;
      store(inverse + g * V, sum[g] == A(0) ? vec<A>{} : one / sum[g]);
    }
  }
};

}  // namespace LM_ISA
}  // namespace lmdis
