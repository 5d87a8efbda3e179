// The vector code with 16-byte registers: what every x86-64 or arm64 processor has.
#define LM_ISA baseline
#define LM_BYTES 16
#define LM_BF16 0
#include "kernels.inc"
