// Vectors of one instruction set: LM_ISA names its namespace, LM_BYTES is the width of a register, LM_BF16 says whether
// there is an instruction that rounds to bfloat16.
// GCC's vector extensions; no header with inline functions, so that nothing compiled here is shared with the others.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
// g++ reads a whole file before it obeys `#pragma GCC target`, so __AVX512F__ and its like say nothing here.
#if defined(__x86_64__)
#define LM_X86 1
#include <immintrin.h>
#else
#define LM_X86 0
#endif

#include "../portable.h"
#include "bands.h"

namespace lmdis {
namespace LM_ISA {

// What is stored; arithmetic happens in float, or in double for double.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class A>
struct lanes;
template <>
struct lanes<float> {
  typedef float vec __attribute__((vector_size(LM_BYTES)));
  typedef int32_t ivec __attribute__((vector_size(LM_BYTES)));
  typedef uint32_t uvec __attribute__((vector_size(LM_BYTES)));
  typedef uint16_t half __attribute__((vector_size(LM_BYTES / 2)));
  enum { count = LM_BYTES / 4 };
  static constexpr float smallest_normal = 1.17549435e-38f;
};
template <>
struct lanes<double> {
  typedef double vec __attribute__((vector_size(LM_BYTES)));
  typedef int64_t ivec __attribute__((vector_size(LM_BYTES)));
  enum { count = LM_BYTES / 8 };
  static constexpr double smallest_normal = 2.2250738585072014e-308;
};
template <class A>
using vec = typename lanes<A>::vec;
template <class A>
using ivec = typename lanes<A>::ivec;
using uvec = lanes<float>::uvec;

template <class S>
struct stored {
  using arithmetic = float;
};
template <>
struct stored<double> {
  using arithmetic = double;
};
template <class S>
using arithmetic = typename stored<S>::arithmetic;

template <class A>
LM_FUNCTION vec<A> splat(A value) {
  return value - vec<A>{};
}

template <int value_>
struct constant {
  enum { value = value_ };
};

// visit(S{}) for the storage type of a dtype.
template <class Visit>
LM_FUNCTION void with_dtype(Dtype dtype, Visit visit) {
  switch (dtype) {
    case Dtype::float32: return visit(float{});
    case Dtype::float64: return visit(double{});
    case Dtype::bfloat16: return visit(bf16{});
    case Dtype::float16: return visit(f16{});
  }
}

// The same value, which the compiler may not merge with what follows into one rounding.
template <class V>
LM_FUNCTION V rounded(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// NaN in b is kept, NaN in a is not: the exact meaning of the processors' instruction.
template <class V>
LM_FUNCTION V maximum(V a, V b) {
  return a > b ? a : b;
}
template <class V>
LM_FUNCTION V minimum(V a, V b) {
  return a < b ? a : b;
}

// Whether any lane of a comparison's result is set.
LM_FUNCTION bool any(ivec<float> mask) {
#if LM_X86 && LM_BYTES == 64
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif LM_X86 && LM_BYTES == 32
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  int32_t found = 0;
  for (int i = 0; i < lanes<float>::count; ++i) found |= mask[i];
  return found;
#endif
}

// The numbers 0 .. count - 1 as template arguments: shuffles need constant indices.
template <int... index>
struct sequence {};
template <int count>
using numbers = sequence<__integer_pack(count)...>;

// Lanes whose index has the bit `step` come from b (moved up), the others from a; and the halves that this leaves.
template <int step, class V, int... j>
LM_FUNCTION V lower_halves(V a, V b, sequence<j...>) {
  using mask = decltype(a > b);
  return __builtin_shuffle(a, b, mask{(j & step ? int(sizeof...(j)) + j - step : j)...});
}
template <int step, class V, int... j>
LM_FUNCTION V upper_halves(V a, V b, sequence<j...>) {
  using mask = decltype(a > b);
  return __builtin_shuffle(a, b, mask{(j & step ? int(sizeof...(j)) + j : j + step)...});
}
template <int step, class V, int... j>
LM_FUNCTION V exchanged(V a, sequence<j...>) {
  using mask = decltype(a > a);
  return __builtin_shuffle(a, mask{(j ^ step)...});
}

template <class A, int step = lanes<A>::count / 2>
LM_FUNCTION vec<A> sum_within(vec<A> v) {  // groups of 2 * step lanes
  v += exchanged<step>(v, numbers<lanes<A>::count>{});
  if constexpr (step > 1)
    return sum_within<A, step / 2>(v);
  else
    return v;
}
template <class A>
LM_FUNCTION A sum_lanes(vec<A> v) {
  return sum_within<A>(v)[0];
}
template <class A, int step = lanes<A>::count / 2>
LM_FUNCTION A max_lanes(vec<A> v) {
  v = maximum(v, exchanged<step>(v, numbers<lanes<A>::count>{}));
  if constexpr (step > 1)
    return max_lanes<A, step / 2>(v);
  else
    return v[0];
}
// The sums of 1, 2 or 4 vectors, in sums[0] and on: a transposition and the additions in one.
template <class A>
LM_FUNCTION void sum_lanes(const vec<A> (&v)[1], A* sums) {
  sums[0] = sum_lanes<A>(v[0]);
}
template <class A>
LM_FUNCTION void sum_lanes(const vec<A> (&v)[2], A* sums) {
  constexpr int V = lanes<A>::count, H = V / 2;
  const numbers<V> all;
  vec<A> s = lower_halves<H>(v[0], v[1], all) + upper_halves<H>(v[0], v[1], all);
  if constexpr (H > 1) s = sum_within<A, H / 2>(s);
  sums[0] = s[0], sums[1] = s[H];
}
// Each of 4 vectors as a quarter of one, in order, which has the same sum.
template <class A>
LM_FUNCTION vec<A> in_quarters(const vec<A> (&v)[4]) {
  constexpr int H = lanes<A>::count / 2, Q = H / 2;
  const numbers<lanes<A>::count> all;
  const vec<A> s = lower_halves<H>(v[0], v[2], all) + upper_halves<H>(v[0], v[2], all);
  const vec<A> t = lower_halves<H>(v[1], v[3], all) + upper_halves<H>(v[1], v[3], all);
  return lower_halves<Q>(s, t, all) + upper_halves<Q>(s, t, all);
}
template <class A>
LM_FUNCTION void sum_lanes(const vec<A> (&v)[4], A* sums) {
  constexpr int Q = lanes<A>::count / 4;
  if constexpr (Q >= 1) {
    vec<A> u = in_quarters<A>(v);
    if constexpr (Q > 1) u = sum_within<A, Q / 2>(u);
    for (int i = 0; i < 4; ++i) sums[i] = u[i * Q];
  } else {
    for (int i = 0; i < 4; ++i) sums[i] = sum_lanes<A>(v[i]);
  }
}

// The lanes' own numbers, 0 and on.
template <class A, int... j>
LM_FUNCTION ivec<A> lane_numbers(sequence<j...>) {
  return ivec<A>{j...};
}
// `value` in the first `count` lanes, `other` in the rest.
template <class A>
LM_FUNCTION vec<A> first_lanes(vec<A> value, int64_t count, A other) {
  const int V = lanes<A>::count;
  if (count >= V) return value;
  return lane_numbers<A>(numbers<V>{}) < ivec<A>{} + int(count) ? value : splat(other);
}

}  // namespace LM_ISA
}  // namespace lmdis
