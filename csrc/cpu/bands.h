// How maps are cut into tasks, and how tasks are run. No torch include.
#pragma once

#include "../maps.h"

namespace lmdis {

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

// Runs body(context, scratch, first, last) over [0, count) in torch's threads, in any split, each with
// `scratch_bytes` of its own memory, aligned to 64 bytes. A task may not depend on which thread runs it.
void parallel_tasks(int64_t count, size_t scratch_bytes, void* context,
                    void (*body)(void* context, char* scratch, int64_t first, int64_t last));

}  // namespace lmdis
