// Between memory and vectors: each dtype widened where it is loaded and narrowed where it is stored, tails, stores past
// the caches.
#pragma once

#include "vec.h"

namespace lmdis {
namespace LM_ISA {

// What g++ makes of __builtin_convertvector between these takes four instructions in place of one.
LM_FUNCTION uvec zero_extended(lanes<float>::half h) {
#if LM_X86 && LM_BYTES == 64
  return (uvec)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)h);
#elif LM_X86 && LM_BYTES == 32
  return (uvec)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, uvec);
#endif
}
// Of numbers below 2^16.
LM_FUNCTION lanes<float>::half truncated(uvec u) {
#if LM_X86 && LM_BYTES == 32
  return (lanes<float>::half)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u),
                                              _mm256_extracti128_si256((__m256i)u, 1));
#else
  return __builtin_convertvector(u, lanes<float>::half);
#endif
}

LM_FUNCTION vec<float> widen(lanes<float>::half h, bf16) { return (vec<float>)(zero_extended(h) << 16); }
#if LM_BF16
LM_FUNCTION lanes<float>::half narrow(vec<float> v, bf16) { return (lanes<float>::half)_mm512_cvtneps_pbh((__m512)v); }
#else
LM_FUNCTION lanes<float>::half narrow(vec<float> v, bf16) {
  const uvec bits = (uvec)v;
  const uvec rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return truncated((rounded | (uvec)(v != v)) >> 16);  // a NaN stays one
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
  const uvec u = zero_extended(h), magnitude = u & 0x7fff;
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
  return truncated(h | sign);
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
// Stored as what they are, not as bytes, which could be anything: sizes and strides stay in registers across a store.
template <class T>
struct unaligned;
template <>
struct unaligned<float> {
  typedef float type __attribute__((vector_size(LM_BYTES), aligned(4)));
};
template <>
struct unaligned<double> {
  typedef double type __attribute__((vector_size(LM_BYTES), aligned(8)));
};
template <>
struct unaligned<uint16_t> {
  typedef uint16_t type __attribute__((vector_size(LM_BYTES / 2), aligned(2)));
};
LM_FUNCTION void store(float* p, vec<float> v) { *reinterpret_cast<unaligned<float>::type*>(p) = v; }
LM_FUNCTION void store(double* p, vec<double> v) { *reinterpret_cast<unaligned<double>::type*>(p) = v; }
template <class S>
LM_FUNCTION void store(S* p, vec<float> v) {
  *reinterpret_cast<unaligned<uint16_t>::type*>(p) = narrow(v, S{});
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

// Into the second cache, from where the first is filled quickly: what is fetched ahead may be more than the first one's
// buffers for lines on their way.
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

}  // namespace LM_ISA
}  // namespace lmdis
