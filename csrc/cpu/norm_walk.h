// Walks of batch_norm_leaky_relu over runs of values, and what each of the four does with them.
#pragma once

#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// What a value needs to know about its channel, lane by lane.
template <class A>
struct NormTables {
  A *mean, *scale, *bias, *level, *fall;
};

// Mean, scale and bias of U vectors of lanes.
template <class A, int U>
struct NormLanes {
  vec<A> mean[U], scale[U], bias[U];
  __attribute__((always_inline)) void take(const NormTables<A>& tables, int64_t lane) {
    for (int u = 0; u < U; ++u) {
      const int64_t at = lane + u * lanes<A>::count;
      mean[u] = load(tables.mean + at), scale[u] = load(tables.scale + at), bias[u] = load(tables.bias + at);
    }
  }
};

template <class A>
LM_FUNCTION vec<A> leaky(vec<A> z, vec<A> value, A slope) {
  return z > vec<A>{} ? value : value * slope;
}

// ---- what a walk does with U vectors at a time ----------------------------------------------------------------------

constexpr int kNormVectors = LM_BYTES >= 64 ? 4 : 2;  // U: tables, sums and values have to fit the registers

// Two sums for each lane: in the arithmetic type for a short while, then in double.
template <class A>
struct NormTotals {
  A *a, *b;
  double *first, *second;
  template <int U>
  __attribute__((always_inline)) void take(vec<A>* x, vec<A>* y, int64_t lane) const {
    for (int u = 0; u < U; ++u)
      x[u] = load(a + lane + u * lanes<A>::count), y[u] = load(b + lane + u * lanes<A>::count);
  }
  template <int U>
  __attribute__((always_inline)) void keep(const vec<A>* x, const vec<A>* y, int64_t lane) const {
    for (int u = 0; u < U; ++u)
      store(a + lane + u * lanes<A>::count, x[u]), store(b + lane + u * lanes<A>::count, y[u]);
  }
  __attribute__((always_inline)) void flush(int64_t count) const {
    for (int64_t i = 0; i < count; ++i) first[i] += double(a[i]), second[i] += double(b[i]), a[i] = b[i] = 0;
  }
  void clear(int64_t count) const {
    for (int64_t i = 0; i < count; ++i) first[i] = second[i] = 0, a[i] = b[i] = 0;
  }
};

// Sums of x - shift and of its square.
template <class S_>
struct NormSums {
  using S = S_;
  using A = arithmetic<S>;
  const S* x;
  const A* shift;
  NormTotals<A> totals;

  template <int U>
  struct Block {
    vec<A> shift[U], first[U], second[U];
  };
  template <int U>
  __attribute__((always_inline)) void begin(Block<U>& b, int64_t lane) const {
    for (int u = 0; u < U; ++u) b.shift[u] = load(shift + lane + u * lanes<A>::count);
    totals.template take<U>(b.first, b.second, lane);
  }
  template <int U>
  __attribute__((always_inline)) void step(Block<U>& b, int u, int64_t at, int64_t some) const {
    const vec<A> moved = load_up_to(x + at, some) - b.shift[u];
    const vec<A> kept = first_lanes<A>(moved, some, 0);
    b.first[u] += kept, b.second[u] += kept * kept;
  }
  template <int U>
  __attribute__((always_inline)) void end(const Block<U>& b, int64_t lane) const {
    totals.template keep<U>(b.first, b.second, lane);
  }
  void flush(int64_t count) const { totals.flush(count); }
};

// out = leaky(scale (x - mean) + bias).
template <class S_>
struct NormApply {
  using S = S_;
  using A = arithmetic<S>;
  const S* x;
  S* out;
  NormTables<A> tables;
  A slope;

  template <int U>
  struct Block : NormLanes<A, U> {};
  template <int U>
  __attribute__((always_inline)) void begin(Block<U>& b, int64_t lane) const {
    b.take(tables, lane);
  }
  template <int U>
  __attribute__((always_inline)) void step(Block<U>& b, int u, int64_t at, int64_t some) const {
    const vec<A> z = (load_up_to(x + at, some) - b.mean[u]) * b.scale[u] + b.bias[u];
    store_up_to(out + at, leaky<A>(z, z, slope), some);
  }
  template <int U>
  __attribute__((always_inline)) void end(const Block<U>&, int64_t) const {}
  void flush(int64_t) const {}
};

// Sums of the gradient g below the normalisation, and of g (x - mean).
template <class S_>
struct NormGradientSums {
  using S = S_;
  using A = arithmetic<S>;
  const S *x, *grad;
  NormTables<A> tables;
  A slope;
  NormTotals<A> totals;

  template <int U>
  struct Block : NormLanes<A, U> {
    vec<A> first[U], second[U];
  };
  template <int U>
  __attribute__((always_inline)) void begin(Block<U>& b, int64_t lane) const {
    b.take(tables, lane);
    totals.template take<U>(b.first, b.second, lane);
  }
  template <int U>
  __attribute__((always_inline)) void step(Block<U>& b, int u, int64_t at, int64_t some) const {
    const vec<A> moved = load_up_to(x + at, some) - b.mean[u];
    const vec<A> g = leaky<A>(moved * b.scale[u] + b.bias[u], load_up_to(grad + at, some), slope);
    b.first[u] += g;
    b.second[u] += first_lanes<A>(g * moved, some, 0);  // 0 x infinity is not 0
  }
  template <int U>
  __attribute__((always_inline)) void end(const Block<U>& b, int64_t lane) const {
    totals.template keep<U>(b.first, b.second, lane);
  }
  void flush(int64_t count) const { totals.flush(count); }
};

// grad_x = scale g - level - fall (x - mean).
template <class S_>
struct NormGradientApply {
  using S = S_;
  using A = arithmetic<S>;
  const S *x, *grad;
  S* out;
  NormTables<A> tables;
  A slope;

  template <int U>
  struct Block : NormLanes<A, U> {
    vec<A> level[U], fall[U];
  };
  template <int U>
  __attribute__((always_inline)) void begin(Block<U>& b, int64_t lane) const {
    b.take(tables, lane);
    for (int u = 0; u < U; ++u) {
      const int64_t at = lane + u * lanes<A>::count;
      b.level[u] = load(tables.level + at), b.fall[u] = load(tables.fall + at);
    }
  }
  template <int U>
  __attribute__((always_inline)) void step(Block<U>& b, int u, int64_t at, int64_t some) const {
    const vec<A> moved = load_up_to(x + at, some) - b.mean[u];
    const vec<A> g = leaky<A>(moved * b.scale[u] + b.bias[u], load_up_to(grad + at, some), slope);
    store_up_to(out + at, g * b.scale[u] - b.level[u] - moved * b.fall[u], some);
  }
  template <int U>
  __attribute__((always_inline)) void end(const Block<U>&, int64_t) const {}
  void flush(int64_t) const {}
};

// Walks over `count` values from `first` on; the channels' tables begin there and repeat after `period` values. A chunk
// of 4 KB, which stays in the first cache, is walked through once for each block of lanes.
template <class Pass>
static void norm_walk(const Pass& pass, int64_t first, int64_t count, int64_t period) {
  using S = typename Pass::S;
  constexpr int U = kNormVectors, V = lanes<arithmetic<S>>::count;
  const int64_t periods = count / period, bytes = period * int64_t(sizeof(S));
  const int64_t chunk = bytes < 4096 ? 4096 / bytes : 1, flush = (64 + chunk - 1) / chunk * chunk;
  for (int64_t p = 0; p < periods; p += chunk) {
    const int64_t last = periods - p < chunk ? periods : p + chunk;
    for (int64_t lane = 0; lane < period; lane += U * V) {
      typename Pass::template Block<U> block;
      pass.begin(block, lane);
      for (int64_t q = p; q < last; ++q)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) pass.step(block, u, first + q * period + lane + u * V, V);
      pass.end(block, lane);
    }
    if (last == periods || last % flush == 0) pass.flush(period);  // so few terms are summed in float
  }
  const int64_t done = periods * period;
  for (int64_t lane = 0; lane < count - done; lane += V) {
    typename Pass::template Block<1> one;
    pass.begin(one, lane);
    pass.step(one, 0, first + done + lane, count - done - lane);
    pass.end(one, lane);
  }
  if (done < count) pass.flush(period);
}

}  // namespace LM_ISA
}  // namespace lmdis
