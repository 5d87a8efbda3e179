// Tensors as the vector code sees them: an address, sizes and strides. No torch include.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../portable.h"

namespace lmdis {

enum class Dtype { float32, float64, bfloat16, float16 };

// A batch of maps (N, C, H, W) with any strides, counted in elements.
struct Maps {
  void* data;
  Dtype dtype;
  int64_t n, c, h, w;
  int64_t stride_n, stride_c, stride_h, stride_w;
};

// Maps are cut into bands of about so many pixels and whole multiples of 4 rows: tasks that can run in any thread.
LM_FUNCTION int64_t rows_of_band(int64_t width, int64_t pixels = 4096) {
  return ((pixels + width - 1) / width + 3) / 4 * 4;
}
LM_FUNCTION int64_t bands_of(const Maps& maps, int64_t pixels = 4096) {
  const int64_t rows = rows_of_band(maps.w, pixels);
  return (maps.h + rows - 1) / rows;
}

// Bands so large that `numbers` of the arithmetic type, kept for each, stay below half a number per pixel.
LM_FUNCTION int64_t band_pixels_keeping(int64_t numbers) { return 2 * numbers < 4096 ? 4096 : 2 * numbers; }

// Points, features and other small tensors: contiguous, in the arithmetic type (float or double).
using Dense = void*;

// Runs body(context, scratch, first, last) over [0, count) in torch's threads, in any split, each with
// `scratch_bytes` of its own memory, aligned to 64 bytes. A task may not depend on which thread runs it.
void parallel_tasks(int64_t count, size_t scratch_bytes, void* context,
                    void (*body)(void* context, char* scratch, int64_t first, int64_t last));

}  // namespace lmdis
