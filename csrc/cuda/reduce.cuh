// Sums and maxima over the lanes of a warp, the same in every lane, in an order that does not change.
#pragma once

#include "device.cuh"

namespace lmdis {

constexpr unsigned all_lanes = 0xffffffffu;

template <class T>
LM_DEVICE T warp_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(all_lanes, value, mask);
  return value;
}
LM_DEVICE float warp_max(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) value = fmaxf(value, __shfl_xor_sync(all_lanes, value, mask));
  return value;
}

// What to take away before exp2: 0 in place of the -inf of terms that are all masked.
LM_DEVICE float finite_peak(float peak) { return peak == -INFINITY ? 0.f : peak; }
// 1 / total, 0 where all terms are masked. NaN stays.
template <class T>
LM_DEVICE T inverse_total(T total) {
  return total == T(0) ? T(0) : T(1) / total;
}

}  // namespace lmdis
