// What lets one file be read by g++, by nvcc and by several instruction sets in one program.
#pragma once

// Functions are inlined always: a copy compiled for AVX-512 must not be the one that the linker keeps for all.
#if defined(__CUDACC__)
#define LM_FUNCTION static __host__ __device__ __forceinline__
#else
#define LM_FUNCTION static inline __attribute__((always_inline))
#endif
