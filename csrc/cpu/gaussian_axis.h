// Gaussians along one axis: a window is a product of two of them, so K (H + W) exponentials make K H W weights.
#pragma once

#include "../gaussian_splat.h"
#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// Exponents -offset^2 / (2 sigma^2) at the centres of pixels [first, first + some) of `count`, offsets in width units.
template <class A>
LM_FUNCTION void axis_exponents(A centre, double sigma, int64_t first, int64_t some, int64_t count, int64_t pixels,
                                bool align_corners, A* out) {
  const int V = lanes<A>::count;
  const GaussianAxis axis = gaussian_axis(double(centre), sigma, count, pixels, align_corners);
  const A step = A(axis.step), shift = A(axis.shift);
  vec<A> index;
  for (int i = 0; i < V; ++i) index[i] = A(first + i);
  for (int64_t i = 0; i < some; i += V) {
    const vec<A> offset = (index + A(i)) * step + shift, exponent = offset * offset * A(-0.5);
    if (some - i >= V)
      store(out + i, exponent);
    else
      store_some(out + i, exponent, int(some - i));
  }
}

// Exponentials of `padded` values less `top`; those beyond `count` become 0. Returns their sum.
template <class A>
LM_FUNCTION A axis_exponentials(A* values, int64_t count, int64_t padded, A top) {
  const int V = lanes<A>::count;
  vec<A> sum{};
  for (int64_t i = 0; i < padded; i += V) {
    const int some = int(count - i < V ? (count - i < 0 ? 0 : count - i) : V);
    const vec<A> e = exp_negative((padded - i < V ? load_some(values + i, int(padded - i)) : load(values + i)) - top);
    const vec<A> kept = some < V ? load_some(reinterpret_cast<const A*>(&e), some) : e;
    if (padded - i < V)
      store_some(values + i, kept, int(padded - i));
    else
      store(values + i, kept);
    sum += kept;
  }
  return sum_lanes<A>(sum);
}

// The softmax of the exponents: exact, and never 0 / 0, for a point however far outside.
template <class A>
LM_FUNCTION void axis_softmax(A centre, A sigma, int64_t count, int64_t pixels, bool align_corners, int64_t padded,
                              A* out) {
  axis_exponents<A>(centre, sigma, 0, count, count, pixels, align_corners, out);
  A top = out[0];
  for (int64_t i = 1; i < count; ++i) top = top > out[i] ? top : out[i];
  for (int64_t i = count; i < padded; ++i) out[i] = top;
  const A inverse = 1 / axis_exponentials<A>(out, count, padded, top);
  for (int64_t i = 0; i < count; ++i) out[i] *= inverse;
}

// exp(-offset^2 / (2 sigma^2)) at pixels [first, first + some), then zeros up to `padded`.
template <class A>
LM_FUNCTION void axis_gaussian(A centre, double sigma, int64_t first, int64_t some, int64_t count, int64_t pixels,
                               bool align_corners, int64_t padded, A* out) {
  axis_exponents<A>(centre, sigma, first, some, count, pixels, align_corners, out);
  for (int64_t i = some; i < padded; ++i) out[i] = 0;
  axis_exponentials<A>(out, some, padded, A(0));
}

}  // namespace LM_ISA
}  // namespace lmdis
