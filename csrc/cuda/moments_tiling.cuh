// How a call's maps are cut for heatmap_moments, and the peaks of a softmax across pixels, which landmark_pool needs
// too.
#pragma once

#include "spatial_moments.cuh"

namespace lmdis {

// Beyond so many channels a tile would have less than 4 pixels.
constexpr int most_channels = 512;

// Threads of a tile of so many channels, each with so many numbers besides.
inline int pixels_of_tile(int64_t channels, int numbers) {
  int pixels = moments_threads;
  while (pixels > 4 && channels * (pixels + 4 + numbers) * int64_t(sizeof(float)) > tile_bytes) pixels /= 2;
  return pixels;
}

// Softmax over the whole image, or more channels than a thread has registers for, or neither.
inline Tiling moments_tiling(const HeatmapMoments& call) {
  const bool many = call.over == Over::channels && call.logits.c > most_columns;
  const int pixels = many ? pixels_of_tile(call.logits.c, moments_record) : moments_threads;
  return tiling_of(call.logits.h, call.logits.w, pixels, moments_rows);
}

// Bytes of the moments of all tiles.
inline int64_t moments_bytes(const HeatmapMoments& call) {
  const int64_t numbers = tiles_of(moments_tiling(call)) * int64_t(moments_values);
  return call.logits.n * call.logits.c * numbers * int64_t(sizeof(float));
}

inline float scale_of(const HeatmapMoments& call) { return float(1.4426950408889634 / call.temperature); }
inline Frame frame_of(const HeatmapMoments& call) {
  return frame_of(long(call.logits.h), long(call.logits.w), call.align_corners);
}
inline unsigned groups_of_channels(const HeatmapMoments& call) {
  return unsigned((call.logits.c + moments_warps - 1) / moments_warps);
}

template <class S>
void sum_pixels(const HeatmapMoments& call, const Tiling& t, const Partials& partials, Stream stream) {
  const dim3 grid(unsigned(call.logits.n * tiles_of(t)), groups_of_channels(call));
  LM_LAUNCH(heatmap_moments_pixels<S>, grid, moments_threads, 0, stream, map_of<S>(call.logits), t, scale_of(call),
            partials);
}

}  // namespace lmdis
