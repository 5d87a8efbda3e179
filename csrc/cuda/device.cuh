// What the kernels use of a GPU. nvcc takes CUDA's own; g++ takes the emulator of tests/gpu_emulation, in which the
// same source runs. Kernels touch global memory through load, store and the atomics alone, and shared memory through
// LM_SHARED and LM_SHARED_POINTER, so that the emulator sees every access.
#pragma once

#include <stdint.h>

#include <type_traits>

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LM_DEVICE static __device__ __forceinline__
// For what would be inlined in many places: compiled once, with everything by value, so that nothing needs an address.
#define LM_DEVICE_CALL static __device__ __noinline__
// A kernel of blocks of at most `threads`, of which a multiprocessor should hold `blocks`.
#define LM_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
// An array of a block's own memory, in the body of a kernel.
#define LM_SHARED(T, name, count) __shared__ __align__(16) T name[count]
// The same of the size that the launch asks for: one array a kernel.
#define LM_DYNAMIC_SHARED(T, name)                           \
  extern __shared__ __align__(16) unsigned char lm_shared[]; \
  T* const name = reinterpret_cast<T*>(lm_shared)
// What shared arrays are passed as; has [] and +.
#define LM_SHARED_POINTER(T) T*
// Said in a function that is not inlined, which could not know otherwise.
#define LM_ASSUME_SHARED(pointer) __builtin_assume(__isShared(pointer))
// A kernel with template arguments stands in parentheses.
#define LM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

namespace lmdis {

using Stream = cudaStream_t;
using BFloat16 = __nv_bfloat16;
using Half = __half;

LM_DEVICE float to_float(float value) { return value; }
LM_DEVICE float to_float(BFloat16 value) { return __bfloat162float(value); }
LM_DEVICE float to_float(Half value) { return __half2float(value); }
template <class T>
LM_DEVICE T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ Half from_float<Half>(float value) {
  return __float2half_rn(value);
}

// log2 of normal positive numbers by the GPU's own instruction: to 2^-22 of it, or of 1 where it is smaller.
LM_DEVICE float fast_log2(float value) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}

// N values side by side, aligned to all of them.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
  __device__ __forceinline__ T& operator[](int i) { return at[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return at[i]; }
};

template <int bytes>
struct Word;
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned int;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

// Global memory. load_vector and store_vector need an address that is a multiple of their size, 16 bytes at most.
template <class T>
LM_DEVICE T load(const T* from) {
  __builtin_assume(__isGlobal(from));
  return *from;
}
template <class T>
LM_DEVICE void store(T* to, std::type_identity_t<T> value) {
  __builtin_assume(__isGlobal(to));
  *to = value;
}
template <int N, class T>
LM_DEVICE Vector<T, N> load_vector(const T* from) {
  __builtin_assume(__isGlobal(from));
  const auto word = *reinterpret_cast<const typename Word<sizeof(T) * N>::Type*>(from);
  return *reinterpret_cast<const Vector<T, N>*>(&word);
}
template <int N, class T>
LM_DEVICE void store_vector(T* to, const Vector<T, N>& value) {
  __builtin_assume(__isGlobal(to));
  *reinterpret_cast<typename Word<sizeof(T) * N>::Type*>(to) =
      *reinterpret_cast<const typename Word<sizeof(T) * N>::Type*>(&value);
}
LM_DEVICE void atomic_add(float* to, float value) { atomicAdd(to, value); }
LM_DEVICE void atomic_add(unsigned long long* to, unsigned long long value) { atomicAdd(to, value); }
LM_DEVICE void atomic_max(unsigned int* to, unsigned int value) { atomicMax(to, value); }
LM_DEVICE void atomic_max(long long* to, long long value) { atomicMax(to, value); }

// Shared memory, N values at a time from a multiple of N.
template <int N, class T>
LM_DEVICE Vector<T, N> load_shared(const T* from) {
  const auto word = *reinterpret_cast<const typename Word<sizeof(T) * N>::Type*>(from);
  return *reinterpret_cast<const Vector<T, N>*>(&word);
}
template <int N, class T>
LM_DEVICE void store_shared(T* to, const Vector<T, N>& value) {
  *reinterpret_cast<typename Word<sizeof(T) * N>::Type*>(to) =
      *reinterpret_cast<const typename Word<sizeof(T) * N>::Type*>(&value);
}

}  // namespace lmdis

#else
#include <gpu_emulation.h>
#endif
