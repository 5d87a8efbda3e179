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
#include "maps.h"

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

// ---- storage -------------------------------------------------------------------------------------------------------

LM_FUNCTION vec<float> widen(lanes<float>::half h, bf16) {
  return (vec<float>)(__builtin_convertvector(h, uvec) << 16);
}
#if LM_BF16
LM_FUNCTION lanes<float>::half narrow(vec<float> v, bf16) { return (lanes<float>::half)_mm512_cvtneps_pbh((__m512)v); }
#else
LM_FUNCTION lanes<float>::half narrow(vec<float> v, bf16) {
  const uvec bits = (uvec)v;
  const uvec rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const uvec kept = v == v ? rounded : (bits | 0x400000);  // a NaN stays one
  return __builtin_convertvector(kept >> 16, lanes<float>::half);
}
#endif

#if LM_X86 && LM_BYTES == 64
LM_FUNCTION vec<float> widen(lanes<float>::half h, f16) {
  return (vec<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h);
}
LM_FUNCTION lanes<float>::half narrow(vec<float> v, f16) {
  return (lanes<float>::half)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif LM_X86 && LM_BYTES == 32
LM_FUNCTION vec<float> widen(lanes<float>::half h, f16) { return (vec<float>)_mm256_cvtph_ps((__m128i)h); }
LM_FUNCTION lanes<float>::half narrow(vec<float> v, f16) {
  return (lanes<float>::half)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
LM_FUNCTION vec<float> widen(lanes<float>::half h, f16) {
  const uvec u = __builtin_convertvector(h, uvec), magnitude = u & 0x7fff;
  const vec<float> value = (vec<float>)(magnitude << 13) * 0x1p112f;  // re-biases the exponent, subnormals included
  const uvec special = (uvec)(magnitude >= 0x7c00) & 0x7f800000;      // infinity and NaN
  return (vec<float>)((uvec)value | special | ((u & 0x8000) << 16));
}
LM_FUNCTION lanes<float>::half narrow(vec<float> v, f16) {
  const uvec bits = (uvec)v, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  const uvec normal = ((magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13) - (112 << 10);
  const uvec half_unit = (uvec)(vec<float>{} + 0.5f);  // adding 1/2 rounds to half precision's smallest step, 2^-24
  const uvec small = (uvec)((vec<float>)magnitude + 0.5f) - half_unit;
  uvec h = magnitude < 0x38800000 ? small : normal;
  h = magnitude >= 0x477ff000 ? uvec{} + 0x7c00 : h;  // 65520 and more
  h = magnitude > 0x7f800000 ? uvec{} + 0x7e00 : h;
  return __builtin_convertvector(h | sign, lanes<float>::half);
}
#endif

LM_FUNCTION vec<float> load(const float* p) {
  vec<float> v;
  memcpy(&v, p, sizeof(v));
  return v;
}
LM_FUNCTION vec<double> load(const double* p) {
  vec<double> v;
  memcpy(&v, p, sizeof(v));
  return v;
}
template <class S>
LM_FUNCTION vec<float> load(const S* p) {
  lanes<float>::half h;
  memcpy(&h, p, sizeof(h));
  return widen(h, S{});
}
LM_FUNCTION void store(float* p, vec<float> v) { memcpy(p, &v, sizeof(v)); }
LM_FUNCTION void store(double* p, vec<double> v) { memcpy(p, &v, sizeof(v)); }
template <class S>
LM_FUNCTION void store(S* p, vec<float> v) {
  const lanes<float>::half h = narrow(v, S{});
  memcpy(p, &h, sizeof(h));
}

// Past the caches, for results too large to be found there again: no line is read before it is written. The address has
// to be a multiple of the bytes written.
LM_FUNCTION void stream(float* p, vec<float> v) {
#if LM_X86 && LM_BYTES == 64
  _mm512_stream_ps(p, (__m512)v);
#elif LM_X86 && LM_BYTES == 32
  _mm256_stream_ps(p, (__m256)v);
#elif LM_X86
  _mm_stream_ps(p, (__m128)v);
#else
  store(p, v);
#endif
}
LM_FUNCTION void stream(double* p, vec<double> v) { stream(reinterpret_cast<float*>(p), (vec<float>)v); }
template <class S>
LM_FUNCTION void stream(S* p, vec<float> v) {
  const lanes<float>::half h = narrow(v, S{});
#if LM_X86 && LM_BYTES == 64
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)h);
#elif LM_X86 && LM_BYTES == 32
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)h);
#else
  memcpy(p, &h, sizeof(h));
#endif
}
// Orders streamed stores before what other threads see next.
LM_FUNCTION void stream_fence() {
#if LM_X86
  _mm_sfence();
#endif
}

// Into the second cache: between a tile's planes and the tile below lies more than the first one holds, whose buffers
// for lines on their way are too few besides (bench/README.md, heatmap_moments).
template <class S>
LM_FUNCTION void fetch(const S* p) {
  __builtin_prefetch(p, 0, 2);
}

// The first `count` lanes, from 0 to all of them; lanes that are not loaded are 0.
#if LM_X86 && LM_BYTES == 64
LM_FUNCTION vec<float> load_some(const float* p, int count) {
  return (vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
}
LM_FUNCTION vec<double> load_some(const double* p, int count) {
  return (vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
}
template <class S>
LM_FUNCTION vec<float> load_some(const S* p, int count) {
  return widen((lanes<float>::half)_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p), S{});
}
LM_FUNCTION void store_some(float* p, vec<float> v, int count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
}
LM_FUNCTION void store_some(double* p, vec<double> v, int count) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), (__m512d)v);
}
template <class S>
LM_FUNCTION void store_some(S* p, vec<float> v, int count) {
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), (__m256i)narrow(v, S{}));
}
#else
template <class S>
LM_FUNCTION vec<arithmetic<S>> load_some(const S* p, int count) {
  S parts[lanes<arithmetic<S>>::count] = {};
  for (int i = 0; i < count; ++i) parts[i] = p[i];
  return load(parts);
}
template <class S>
LM_FUNCTION void store_some(S* p, vec<arithmetic<S>> v, int count) {
  S parts[lanes<arithmetic<S>>::count];
  store(parts, v);
  for (int i = 0; i < count; ++i) p[i] = parts[i];
}
#endif

// `count` elements from p on where those are fewer than the lanes, else a whole vector.
template <class S>
LM_FUNCTION vec<arithmetic<S>> load_up_to(const S* p, int64_t count) {
  return count < lanes<arithmetic<S>>::count ? load_some(p, int(count)) : load(p);
}
template <class S>
LM_FUNCTION void store_up_to(S* p, vec<arithmetic<S>> v, int64_t count) {
  if (count < lanes<arithmetic<S>>::count)
    store_some(p, v, int(count));
  else
    store(p, v);
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

template <class S>
LM_FUNCTION arithmetic<S> load_one(const S* p) {
  return load_some(p, 1)[0];
}
LM_FUNCTION float load_one(const float* p) { return *p; }
LM_FUNCTION double load_one(const double* p) { return *p; }
LM_FUNCTION float load_one(const bf16* p) {
  const uint32_t bits = uint32_t(p->bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
LM_FUNCTION void store_one(float* p, float v) { *p = v; }
LM_FUNCTION void store_one(double* p, double v) { *p = v; }
template <class S>
LM_FUNCTION void store_one(S* p, float v) {
  store_some(p, splat(v), 1);
}

// While it lives, results too small for full precision become 0: each of them can cost what ten others do, and products
// of two Gaussians' tails are full of them.
class FlushTiny {
#if LM_X86
 public:
  FlushTiny() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8000); }
  ~FlushTiny() { _mm_setcsr(before_); }
  FlushTiny(const FlushTiny&) = delete;

 private:
  unsigned before_;
#else
 public:
  FlushTiny() {}
  ~FlushTiny() {}
#endif
};

// ---- exponential and logarithm -------------------------------------------------------------------------------------

// 2^(x factor) for products between -127.4 and 127: 1e-7 relative; 0 below -126.5, NaN for NaN. A product is not
// rounded where there are fused multiply-adds.
LM_FUNCTION vec<float> exp2_product(vec<float> x, vec<float> factor) {
  // Adding the magic number rounds to an integer and leaves it, biased, in the low bits; -127 becomes a scale of zero.
  const vec<float> magic = splat(12582912.f + 127.f);
  const vec<float> t = x * factor + magic;
  const vec<float> f = x * factor - (t - magic);
  vec<float> p = f * 0.00132647273f + 0.00967151299f;  // minimax on [-1/2, 1/2]
  p = p * f + 0.0555073358f;
  p = p * f + 0.240222424f;
  p = p * f + 0.693147004f;
  p = p * f + 1.f;
  return p * (vec<float>)((ivec<float>)t << 23);
}

// Whether any lane of a comparison's result is set.
LM_FUNCTION bool any(ivec<float> mask) {
#if LM_X86 && LM_BYTES == 64
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#else
  int32_t found = 0;
  for (int i = 0; i < lanes<float>::count; ++i) found |= mask[i];
  return found;
#endif
}

// e^x for x <= 0; 0 below about -87.7 and -708.7, NaN for NaN.
LM_FUNCTION vec<float> exp_negative(vec<float> x) { return exp2_product(maximum(splat(-88.f), x), splat(1.44269504f)); }
LM_FUNCTION vec<double> exp_negative(vec<double> x) {
  x = maximum(splat(-709.2), x);
  const vec<double> magic = splat(6755399441055744. + 1023.);
  const vec<double> t = x * 1.4426950408889634 + magic, n = t - magic;
  vec<double> f = x - n * 0x1.62e42fee00000p-1;
  f = f - n * 0x1.a39ef35793c76p-33;
  vec<double> p = f * (1. / 6227020800) + 1. / 479001600;
  const double factorials[] = {1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320, 1. / 5040, 1. / 720,
                               1. / 120,      1. / 24,      1. / 6,      1. / 2,     1.,        1.};
  for (double c : factorials) p = p * f + c;
  return p * (vec<double>)((ivec<double>)t << 52);
}

// Natural logarithm of normal positive numbers: 3e-8 absolute near 1, 1e-7 relative elsewhere (float).
LM_FUNCTION vec<float> log_positive(vec<float> x) {
  const ivec<float> root = ivec<float>{} + 0x3f3504f3;  // of 1/2: the mantissa goes to [0.71, 1.41]
  const ivec<float> k = ((ivec<float>)x - root) >> 23;
  const vec<float> f = (vec<float>)((ivec<float>)x - (k << 23)) - 1.f;
  vec<float> p = f * 0.0895992294f - 0.144821912f;
  p = p * f + 0.149173766f;
  p = p * f - 0.165437371f;
  p = p * f + 0.199584171f;
  p = p * f - 0.250029474f;
  p = p * f + 0.333341599f;
  p = p * f - 0.499999791f;
  p = p * f + 1.f;
  return p * f + __builtin_convertvector(k, vec<float>) * 0.693147181f;
}
LM_FUNCTION vec<double> log_positive(vec<double> x) {
  const ivec<double> root = ivec<double>{} + 0x3fe6a09e667f3bcd;
  const ivec<double> k = ((ivec<double>)x - root) >> 52;
  const vec<double> m = (vec<double>)((ivec<double>)x - (k << 52));
  const vec<double> s = (m - 1.) / (m + 1.), z = s * s;
  vec<double> p = splat(1. / 23);
  for (int odd = 21; odd >= 1; odd -= 2) p = p * z + 1. / odd;
  return 2. * s * p + __builtin_convertvector(k, vec<double>) * 0.69314718055994531;
}

}  // namespace LM_ISA
}  // namespace lmdis
