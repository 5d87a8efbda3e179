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
template <class S>
struct ChannelSoftmax {
  using A = arithmetic<S>;
  enum { V = lanes<A>::count, G = LM_BYTES >= 64 ? 4 : 2 };
  Maps logits;
  Exponential<A> exponential;
  int64_t plane_pitch;  // of the weights
  A* staging;

  // weights[c * plane_pitch + r * tile.pitch + x] = exp((z - max) / T) and inverse[r * tile.pitch + x] = 1 / sum: 0
  // where all channels are -inf, and between the tile's columns and its pitch.
  void run(const Tile& tile, A* weights, A* inverse) const {
    if (layout_of(logits) != Layout::planar) stage<S>(logits, tile, 0, int(logits.c), weights, plane_pitch, staging);
    const Runs runs = layout_of(logits) == Layout::planar ? runs_of(logits, tile) : Runs{tile.rows, tile.columns};
    for (int run = 0; run < runs.count; ++run) {
      const int64_t first = run * tile.pitch;
      const S* z = layout_of(logits) == Layout::planar ? address<S>(logits, tile.n, 0, tile.y + run, tile.x) : nullptr;
      const int64_t ahead = tile.rows * logits.stride_h;  // the tile below, which comes next
      int at = 0;
      for (; at + G * V <= runs.length; at += G * V)
        group<G>(z ? z + at : nullptr, ahead, weights + first + at, inverse + first + at, V);
      for (; at + 2 * V <= runs.length; at += 2 * V)
        group<2>(z ? z + at : nullptr, ahead, weights + first + at, inverse + first + at, V);
      for (; at < runs.length; at += V)
        group<1>(z ? z + at : nullptr, ahead, weights + first + at, inverse + first + at,
                 runs.length - at < V ? runs.length - at : V);
    }
  }

 private:
  // `group` for logits so near 0, which most are, that no maximum has to be taken away from them first: one pass
  // instead of two. Says whether they were; if not, nothing that was written counts.
  template <int vectors>
  __attribute__((always_inline)) bool near_group(const S* z, int64_t ahead, A* weights, A* inverse, int some) const {
    const int channels = int(logits.c);
    const int64_t stride = logits.stride_c, pitch = plane_pitch;  // copies, which what is stored cannot change
    const Exponential<A> exponential = this->exponential;
    vec<A> sum[vectors], squares[vectors];  // whose sum over the channels is at least the largest
    ivec<A> far{};
#pragma GCC unroll 8
    for (int g = 0; g < vectors; ++g) sum[g] = vec<A>{}, squares[g] = vec<A>{};
    for (int c = 0; c < channels; ++c)
#pragma GCC unroll 8
      for (int g = 0; g < vectors; ++g) {
        const S* from = z + c * stride + g * V;
        if (g * V * sizeof(S) % 64 == 0) fetch(from + ahead);
        const vec<A> fresh = vectors == 1 && some < V ? load_some(from, some) : load(from);
        squares[g] += fresh * fresh;
        const vec<A> e = exponential.near(fresh);
        store(weights + c * pitch + g * V, e);
        sum[g] += e;
      }
#pragma GCC unroll 8
    for (int g = 0; g < vectors; ++g) far |= ~(squares[g] <= exponential.reach);  // NaN is far
    if (any(far)) return false;
#pragma GCC unroll 8
    for (int g = 0; g < vectors; ++g) {
      vec<A> one = splat(A(1));
      if (vectors == 1 && some < V)
        for (int i = some; i < V; ++i) one[i] = 0;
      store(inverse + g * V, one / sum[g]);
    }
    return true;
  }

  // Vectors at one place of all planes, from `z` or, without it, from the weights themselves; of a last vector only
  // `some` lanes are pixels. Tensors are read once: planes of a power-of-two size fall on the same few cache lines.
  template <int vectors>
  __attribute__((always_inline)) void group(const S* z, int64_t ahead, A* weights, A* inverse, int some) const {
    if constexpr (sizeof(A) == 4)
      if (z && near_group<vectors>(z, ahead, weights, inverse, some)) return;
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
        if (z && g * V * sizeof(S) % 64 == 0) fetch(z + c * logits.stride_c + g * V + ahead);
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
