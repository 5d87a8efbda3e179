// What csrc/cuda/device.cuh includes where nvcc does not compile it: the names it defines, and CUDA's own that kernels
// use, for a processor. See README.md.
#pragma once

#include "barriers.h"
#include "builtins.h"
#include "functions.h"
#include "launch.h"
#include "memory.h"
#include "warps.h"

#define LM_DEVICE [[maybe_unused]] static inline
#define LM_DEVICE_CALL [[maybe_unused]] static
#define LM_ASSUME_SHARED(pointer) static_cast<void>(0)
#define LM_KERNEL(threads, blocks) [[maybe_unused]] static void
