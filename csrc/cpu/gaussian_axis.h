// Gaussians along one axis: a window is a product of two of them, so K (H + W) exponentials make K H W weights.
#pragma once

#include "../gaussian_splat.h"
#include "exponential.h"
#include "tile.h"

namespace lmdis {
namespace LM_ISA {

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

// step i + shift for the pixels i of a vector, the offsets of a landmark's Gaussian in standard deviations.
template <class A>
struct AxisOffsets {
  A step, shift;
  LM_FUNCTION AxisOffsets make(const GaussianAxis& axis, A centre) {
    return {A(axis.step), A(shift_of(axis, double(centre)))};
  }
  // Of pixel `first` and those after it.
  __attribute__((always_inline)) vec<A> at(int64_t first) const {
    return (__builtin_convertvector(lane_numbers<A>(numbers<lanes<A>::count>{}), vec<A>) + A(first)) * step + shift;
  }
  __attribute__((always_inline)) vec<A> exponents(int64_t first) const {
    const vec<A> t = at(first);
    return t * t * A(-0.5);
  }
};

// factor exp(-t^2 / 2) at pixels [first, first + some), then zeros up to `padded`.
template <class A>
LM_FUNCTION void axis_gaussian(const GaussianAxis& axis, A centre, int64_t first, int64_t some, int64_t padded,
                               A factor, A* out) {
  const auto offsets = AxisOffsets<A>::make(axis, centre);
  for (int64_t i = 0; i < padded; i += lanes<A>::count)
    store_up_to(out + i, first_lanes<A>(exp_negative(offsets.exponents(first + i)) * factor, some - i, 0), padded - i);
}

// The same of all `count` pixels divided by their sum: a softmax of the exponents, which is exact, and never 0 / 0, for
// a point however far outside.
template <class A>
LM_FUNCTION void axis_softmax(const GaussianAxis& axis, A centre, int64_t count, int64_t padded, A factor, A* out) {
  const int V = lanes<A>::count;
  const A lowest = -A(__builtin_inf());
  const auto offsets = AxisOffsets<A>::make(axis, centre);
  vec<A> tops = splat(lowest), sum{};
  for (int64_t i = 0; i < count; i += V) tops = maximum(tops, first_lanes<A>(offsets.exponents(i), count - i, lowest));
  const A top = max_lanes<A>(tops);
  for (int64_t i = 0; i < padded; i += V) {
    const vec<A> e = first_lanes<A>(exp_negative(offsets.exponents(i) - top), count - i, 0);
    store_up_to(out + i, e, padded - i);
    sum += e;
  }
  const A scale = factor / sum_lanes<A>(sum);
  for (int64_t i = 0; i < padded; i += V) store_up_to(out + i, load_up_to(out + i, padded - i) * scale, padded - i);
}
template <class A>
LM_FUNCTION void axis_softmax(A centre, A sigma, int64_t count, int64_t pixels, bool align_corners, int64_t padded,
                              A* out) {
  axis_softmax<A>(gaussian_axis(double(sigma), count, pixels, align_corners), centre, count, padded, A(1), out);
}

}  // namespace LM_ISA
}  // namespace lmdis
