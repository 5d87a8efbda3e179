// What calls of landmark_pool and gaussian_pool launch: tiles and then their sums; backward a map, after the peaks of
// the channels where the softmax ran over an image, or before sums where landmarks have a gradient.
#pragma once

#include "gaussian_pool.cuh"
#include "moments_tiling.cuh"

namespace lmdis {

// Beyond so many channels a block's shared memory would hold too few pixels.
constexpr int most_pool_channels = 256, most_windows = 128;
inline PoolBlock forward_block(const LandmarkPool& call) {
  return pool_block(call.logits.c, call.features.c, 0, 2, false);
}
inline PoolBlock backward_block(const LandmarkPool& call) {
  return pool_block(call.logits.c, call.features.c, 0, 3, true);
}
inline PoolBlock forward_block(const GaussianPool& call) {
  return pool_block(call.landmarks, call.features.c, 2, 2 * window_axis, false);
}
inline PoolBlock backward_block(const GaussianPool& call) {
  return pool_block(call.landmarks, call.features.c, 2, 2 * window_axis, true);
}

// The logits alone, as heatmap_moments takes them over pixels: their peaks and totals by tile.
inline HeatmapMoments peaks_of(const LandmarkPool& call) {
  HeatmapMoments peaks{};
  peaks.logits = call.logits;
  peaks.over = Over::pixels;
  peaks.temperature = call.temperature;
  peaks.workspace = call.workspace;
  return peaks;
}

// Why a call cannot be run, or null.
inline const char* refusal(const LandmarkPool& call) {
  if (call.features.c > most_maps) return "landmark_pool takes at most 65535 features";
  return call.logits.c <= most_pool_channels ? nullptr : "landmark_pool takes at most 256 channels";
}
inline const char* refusal(const LandmarkPoolBackward& call) { return refusal(call.forward); }
inline const char* refusal(const GaussianPool& call) {
  if (call.features.c > most_maps) return "gaussian_pool takes at most 65535 features";
  return call.landmarks <= most_windows ? nullptr : "gaussian_pool takes at most 128 landmarks";
}
inline const char* refusal(const GaussianPoolBackward& call) { return refusal(call.forward); }

inline int64_t workspace_bytes(const LandmarkPool& call) {
  const int64_t tiles = tiles_of(pool_tiling(call.features, forward_block(call)));
  return call.logits.n * tiles * call.logits.c * (call.features.c + 2) * int64_t(sizeof(float));
}
inline int64_t workspace_bytes(const LandmarkPoolBackward& call) {
  return call.forward.over_pixels ? moments_bytes(peaks_of(call.forward)) : 0;
}
inline int64_t workspace_bytes(const GaussianPool& call) {
  const int64_t tiles = tiles_of(pool_tiling(call.features, forward_block(call)));
  return call.features.n * tiles * call.landmarks * call.features.c * int64_t(sizeof(float));
}
inline int64_t workspace_bytes(const GaussianPoolBackward& call) {
  const int64_t tiles = tiles_of(pool_tiling(call.forward.features, backward_block(call.forward)));
  return call.forward.features.n * tiles * 3 * call.forward.landmarks * int64_t(sizeof(float));
}

inline void run(const LandmarkPool& call, Stream stream) {
  const int64_t n = call.logits.n, channels = call.logits.c, features = call.features.c;
  if (n == 0) return;
  const PoolBlock block = forward_block(call);
  const Tiling t = pool_tiling(call.features, block);
  const int64_t parts = n * tiles_of(t) * channels, values = n * channels * features;
  float* const pooled = static_cast<float*>(call.workspace);
  float* const mass = pooled + parts * features;
  const PoolPartials partials = {pooled, mass, mass + parts};
  const dim3 grid(unsigned(n * tiles_of(t)), pool_blocks(features, block));
  const size_t bytes = pool_shared(block, channels, 2 * channels);
  const float scale = float(1.4426950408889634 / call.temperature);
  float *const to = static_cast<float*>(call.pooled), *const masses = static_cast<float*>(call.mass);
  const auto both = [&](auto over_pixels) {
    constexpr bool over = decltype(over_pixels)::value;
    with_storage(call.logits.dtype, [&](auto* storage) {
      using S = std::remove_pointer_t<decltype(storage)>;
      LM_LAUNCH((landmark_pool_partials<S, over>), grid, product_threads, bytes, stream, map_of<S>(call.features),
                map_of<S>(call.logits), t, block, scale, partials);
    });
    LM_LAUNCH(landmark_pool_finish<over>, blocks_for(values), product_threads, 0, stream, partials, tiles_of(t),
              int(channels), int(features), values, call.eps, to, masses);
  };
  call.over_pixels ? both(std::true_type{}) : both(std::false_type{});
}

inline void run(const LandmarkPoolBackward& call, Stream stream) {
  const LandmarkPool& forward = call.forward;
  const int64_t n = forward.logits.n, channels = forward.logits.c;
  if (n == 0) return;
  const PoolBlock block = backward_block(forward);
  const Tiling t = pool_tiling(forward.features, block);
  const unsigned grid = unsigned(n * tiles_of(t));
  const size_t bytes = pool_shared(block, channels, block.features * channels + 3 * channels);
  const float scale = float(1.4426950408889634 / forward.temperature);
  const float inverse_temperature = float(1 / forward.temperature);
  const PoolGradient given = {static_cast<const float*>(call.grad_pooled), static_cast<const float*>(call.grad_mass),
                              static_cast<const float*>(forward.pooled), static_cast<const float*>(forward.mass),
                              forward.eps};
  with_storage(forward.logits.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    const Map<S> features = map_of<S>(forward.features), logits = map_of<S>(forward.logits);
    const Map<S> grad_features = map_of<S>(call.need_features ? call.grad_features : forward.features);
    const Map<S> grad_logits = map_of<S>(call.need_logits ? call.grad_logits : forward.logits);
    Partials partials = {};
    int parts = 0;
    if (forward.over_pixels) {
      const HeatmapMoments peaks = peaks_of(forward);
      const Tiling of_peaks = moments_tiling(peaks);
      partials = {static_cast<float*>(forward.workspace), int(channels)};
      parts = tiles_of(of_peaks);
      sum_pixels<S>(peaks, of_peaks, partials, stream);
    }
    with_rows(channels, block, [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      if (forward.over_pixels)
        LM_LAUNCH((landmark_pool_backward_map<S, true, R>), grid, product_threads, bytes, stream, features, logits,
                  grad_features, grad_logits, call.need_features, call.need_logits, t, block, scale,
                  inverse_temperature, partials, parts, given);
      else
        LM_LAUNCH((landmark_pool_backward_map<S, false, R>), grid, product_threads, bytes, stream, features, logits,
                  grad_features, grad_logits, call.need_features, call.need_logits, t, block, scale,
                  inverse_temperature, partials, parts, given);
    });
  });
}

inline Windows windows_of(const GaussianPool& call) {
  const Maps& f = call.features;
  return {static_cast<const float*>(call.coords), static_cast<const float*>(call.sigma), int(call.landmarks),
          axis_frame(f.w, f.h * f.w, call.align_corners), axis_frame(f.h, f.h * f.w, call.align_corners)};
}
inline int64_t windows_numbers(int64_t landmarks, const PoolBlock& block) {
  return landmarks * (2 * window_axis + 2 * block.pixels);
}

inline void run(const GaussianPool& call, Stream stream) {
  const int64_t n = call.features.n, features = call.features.c;
  if (n == 0) return;
  const PoolBlock block = forward_block(call);
  const Tiling t = pool_tiling(call.features, block);
  const dim3 grid(unsigned(n * tiles_of(t)), pool_blocks(features, block));
  const size_t bytes = pool_shared(block, call.landmarks, windows_numbers(call.landmarks, block));
  float* const partials = static_cast<float*>(call.workspace);
  with_storage(call.features.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    LM_LAUNCH(gaussian_pool_partials<S>, grid, product_threads, bytes, stream, map_of<S>(call.features),
              windows_of(call), t, block, partials);
  });
  const int values = int(call.landmarks * features);
  sum_over_tiles({partials, tiles_of(t), values, n * values, static_cast<float*>(call.pooled)}, {}, stream);
}

inline void run(const GaussianPoolBackward& call, Stream stream) {
  const GaussianPool& forward = call.forward;
  const int64_t n = forward.features.n;
  if (n == 0) return;
  const PoolBlock block = backward_block(forward);
  const Tiling t = pool_tiling(forward.features, block);
  const int64_t landmarks = forward.landmarks;
  const size_t bytes = pool_shared(block, landmarks, block.features * landmarks + windows_numbers(landmarks, block));
  const float* const grad = static_cast<const float*>(call.grad);
  const int64_t parts = n * tiles_of(t) * landmarks;
  float *const moved = static_cast<float*>(forward.workspace), *const wider = moved + 2 * parts;
  with_storage(forward.features.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    const Map<S> features = map_of<S>(forward.features);
    const Map<S> grad_features = map_of<S>(call.need_features ? call.grad_features : forward.features);
    with_rows(landmarks, block, [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      LM_LAUNCH((gaussian_pool_backward_map<S, R>), unsigned(n * tiles_of(t)), product_threads, bytes, stream, grad,
                features, grad_features, call.need_features, call.need_landmarks, windows_of(forward), t, block, moved,
                wider);
    });
  });
  if (!call.need_landmarks) return;
  const int tiles = tiles_of(t), count = int(landmarks);
  sum_over_tiles({moved, tiles, 2 * count, n * 2 * count, static_cast<float*>(call.grad_coords)},
                 {wider, tiles, count, n * count, static_cast<float*>(call.grad_sigma)}, stream);
}

}  // namespace lmdis
