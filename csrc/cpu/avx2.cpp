// The vector code for AVX2, FMA and F16C.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define LM_ISA avx2
#define LM_BYTES 32
#define LM_BF16 0
#include "kernels.inc"
#endif
