// The dtypes that are narrower than float, and several values side by side.
#pragma once

#include <stdint.h>
#include <string.h>

#include <bit>
#include <cmath>

namespace lmdis {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) { return std::bit_cast<float>(uint32_t(value.bits) << 16); }
inline float to_float(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  const float moved = std::bit_cast<float>(magnitude << 13) * 0x1p112f;  // exponents of the one in those of the other
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(moved));
}

// To the nearest, ties to even; any NaN becomes the one that the device makes.
template <class T>
inline T from_float(float value);
template <>
inline float from_float<float>(float value) {
  return value;
}
template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return {0x7fff};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline Half from_float<Half>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return {0x7fff};
  if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and more
  if (magnitude < 0x38800000) {
    // adding 1/2 rounds to the smallest step of half precision, 2^-24
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return {uint16_t(sign | (std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(0.5f)))};
  }
  return {uint16_t(sign | (((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13) - (112 << 10)))};
}

inline float fast_log2(float value) { return std::log2(value); }

template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
  T& operator[](int i) { return at[i]; }
  const T& operator[](int i) const { return at[i]; }
};

}  // namespace lmdis
