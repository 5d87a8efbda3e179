// Small kernels with one mistake each, and beside each one without it: what the emulator has to tell apart.
#pragma once

#include "../../csrc/cuda/device.cuh"

namespace lmdis {
namespace planted {

// Sums of 256 numbers a block, by way of shared memory. `barriers` is what the wrong one lacks.
template <bool barriers, class T>
LM_KERNEL(256, 4)
block_sums(const T* values, float* sums, int count) {
  LM_SHARED(float, partial, 256);
  const int thread = int(threadIdx.x), i = int(blockIdx.x * 256) + thread;
  partial[thread] = i < count ? to_float(load(values + i)) : 0.0f;
  if (barriers) __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (thread < half) partial[thread] += partial[thread + half];
    __syncthreads();
  }
  if (thread == 0) store(sums + blockIdx.x, float(partial[0]));
}

}  // namespace planted
}  // namespace lmdis
