// Tensors as kernels see them: an address, sizes and strides. No torch include.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "portable.h"

namespace lmdis {

enum class Dtype { float32, float64, bfloat16, float16 };

// A batch of maps (N, C, H, W) with any strides, counted in elements.
struct Maps {
  void* data;
  Dtype dtype;
  int64_t n, c, h, w;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// Points, features and other small tensors: contiguous, in the arithmetic type (float or double).
using Dense = void*;

}  // namespace lmdis
