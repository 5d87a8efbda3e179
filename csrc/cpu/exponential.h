// Exponential and logarithm of vectors.
#pragma once

#include "vec.h"

namespace lmdis {
namespace LM_ISA {

// 2^f for |f| <= 1/2: minimax, 9e-8 relative.
LM_FUNCTION vec<float> exp2_fraction(vec<float> f) {
  vec<float> p = f * 0.00132647273f + 0.00967151299f;
  p = p * f + 0.0555073358f;
  p = p * f + 0.240222424f;
  p = p * f + 0.693147004f;
  return p * f + 1.f;
}

// 2^(x factor) for products between -127.4 and 127: 1e-7 relative; 0 below -126.5, NaN for NaN. A product is not
// rounded where there are fused multiply-adds.
LM_FUNCTION vec<float> exp2_product(vec<float> x, vec<float> factor) {
  // Adding the magic number rounds to an integer and leaves it, biased, in the low bits; -127 becomes a scale of zero.
  const vec<float> magic = splat(12582912.f + 127.f);
  const vec<float> t = x * factor + magic;
  const vec<float> p = exp2_fraction(x * factor - (t - magic));
  return p * (vec<float>)((ivec<float>)t << 23);
}

// The same for products between -125 and 126, scaled by an addition to the exponent.
LM_FUNCTION vec<float> exp2_near(vec<float> x, vec<float> factor) {
  const vec<float> magic = splat(12582912.f);
  const vec<float> t = x * factor + magic;
  const vec<float> p = exp2_fraction(x * factor - (t - magic));
  return (vec<float>)((uvec)p + ((uvec)t << 23));  // unsigned: far numbers wrap around
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
