// The vector code for AVX-512 (F, DQ, BW, VL) with the bfloat16 conversions.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512bf16,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#define LM_ISA avx512_bf16
#define LM_BYTES 64
#define LM_BF16 1
#include "kernels.inc"
#endif
