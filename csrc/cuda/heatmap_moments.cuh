// What a call of heatmap_moments launches: one kernel for tiles and one that puts them together; backward one, or one
// before it where the softmax ran over an image.
#pragma once

#include "marginals.cuh"
#include "moments_tiling.cuh"

namespace lmdis {

// Why a call cannot be run, or null.
inline const char* refusal(const HeatmapMoments& call) {
  if (call.logits.c > most_maps) return "heatmap_moments takes at most 65535 channels";
  if (call.over != Over::channels || call.logits.c <= most_channels) return nullptr;
  return "a softmax across channels takes at most 512 of them";
}
inline const char* refusal(const HeatmapMomentsBackward& call) { return refusal(call.forward); }

inline int64_t workspace_bytes(const HeatmapMoments& call) {
  if (call.over != Over::marginals) return moments_bytes(call);
  const Tiling t = moments_tiling(call);
  const int64_t maps = call.logits.n * call.logits.c, numbers = t.down * call.logits.w + t.across * call.logits.h;
  return maps * numbers * int64_t(sizeof(float));
}
inline int64_t workspace_bytes(const HeatmapMomentsBackward& call) {
  return call.forward.over == Over::channels ? 0 : workspace_bytes(call.forward);
}

// The sums along the axes, and the scales of their means in powers of two.
struct AxisCall {
  AxisSums sums;
  double scale_x, scale_y;
};
inline AxisCall axes_of(const HeatmapMoments& call, const Tiling& t) {
  float* const along_x = static_cast<float*>(call.workspace);
  float* const along_y = along_x + call.logits.n * call.logits.c * t.down * call.logits.w;
  const double scale = 1.4426950408889634 / call.temperature;
  return {{along_x, along_y, t.across, t.down}, scale / double(call.logits.h), scale / double(call.logits.w)};
}

template <class S>
void sum_axes(const HeatmapMoments& call, const Tiling& t, const AxisSums& sums, Stream stream) {
  const dim3 grid(unsigned(call.logits.n * tiles_of(t)), groups_of_channels(call));
  LM_LAUNCH(heatmap_moments_axes<S>, grid, moments_threads, 0, stream, map_of<S>(call.logits), t, sums);
}
// Softmax across at most C channels.
template <class S, int C>
void sum_channels(const HeatmapMoments& call, const Tiling& t, const Partials& partials, Stream stream) {
  constexpr int pitch = moments_threads + 4, group = 3 * moments_group * moments_threads;
  constexpr int numbers = C * pitch > group ? C * pitch : group;
  LM_LAUNCH((heatmap_moments_channels<S, C>), unsigned(call.logits.n * tiles_of(t)), moments_threads,
            numbers * sizeof(float), stream, map_of<S>(call.logits), t, scale_of(call), partials);
}
template <class S>
void sum_any_channels(const HeatmapMoments& call, const Tiling& t, const Partials& partials, Stream stream) {
  const int64_t channels = call.logits.c;
  if (channels <= few_columns) return sum_channels<S, few_columns>(call, t, partials, stream);
  if (channels <= most_columns) return sum_channels<S, most_columns>(call, t, partials, stream);
  const int pitch = pixels_of_tile(channels, moments_record) + 4;
  const size_t bytes = size_t(channels * (pitch + moments_record)) * sizeof(float);
  LM_LAUNCH(heatmap_moments_many<S>, unsigned(call.logits.n * tiles_of(t)), moments_threads, bytes, stream,
            map_of<S>(call.logits), t, scale_of(call), pitch, partials);
}

inline void run(const HeatmapMoments& call, Stream stream) {
  const int64_t n = call.logits.n, landmarks = n * call.count;
  if (landmarks == 0) return;
  const Tiling t = moments_tiling(call);
  float *coords = static_cast<float*>(call.coords), *variance = static_cast<float*>(call.variance);
  float* mass = static_cast<float*>(call.mass);
  const int channels = int(call.logits.c), count = int(call.count), second = int(call.second);
  with_storage(call.logits.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    if (call.over == Over::marginals) {
      const AxisCall axes = axes_of(call, t);
      sum_axes<S>(call, t, axes.sums, stream);
      LM_LAUNCH(heatmap_moments_marginals, unsigned((landmarks + 3) / 4), 128, 0, stream, axes.sums, channels, count,
                landmarks, int(call.logits.h), int(call.logits.w), axes.scale_x, axes.scale_y, frame_of(call), coords,
                variance, mass, second);
      return;
    }
    const Partials partials = {static_cast<float*>(call.workspace), channels};
    const bool over_pixels = call.over == Over::pixels;
    if (over_pixels)
      sum_pixels<S>(call, t, partials, stream);
    else
      sum_any_channels<S>(call, t, partials, stream);
    LM_LAUNCH(heatmap_moments_finish, unsigned((landmarks + 127) / 128), 128, 0, stream, partials, tiles_of(t), count,
              landmarks, coords, variance, mass, second, frame_of(call), call.eps, over_pixels);
  });
}

inline void run(const HeatmapMomentsBackward& call, Stream stream) {
  const HeatmapMoments& forward = call.forward;
  const int64_t n = forward.logits.n, channels = forward.logits.c;
  if (n == 0) return;
  const MomentsGradient given = {static_cast<const float*>(call.grad_coords),
                                 static_cast<const float*>(call.grad_variance),
                                 static_cast<const float*>(call.grad_mass),
                                 static_cast<const float*>(forward.coords),
                                 static_cast<const float*>(forward.variance),
                                 static_cast<const float*>(forward.mass),
                                 int(forward.count),
                                 int(forward.second),
                                 forward.eps,
                                 forward.over == Over::channels,
                                 frame_of(forward)};
  const float inverse_temperature = float(1 / forward.temperature);
  with_storage(forward.logits.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    const Map<S> logits = map_of<S>(forward.logits), grad = map_of<S>(call.grad);
    if (forward.over == Over::marginals) {
      const Tiling t = moments_tiling(forward);
      const AxisCall axes = axes_of(forward, t);
      sum_axes<S>(forward, t, axes.sums, stream);
      const dim3 grid(unsigned(n * tiles_of(t)), unsigned(channels));
      LM_LAUNCH(heatmap_moments_backward_marginals<S>, grid, moments_threads, 0, stream, grad, t, axes.sums,
                axes.scale_x, axes.scale_y, float(1 / (forward.temperature * double(forward.logits.h))),
                float(1 / (forward.temperature * double(forward.logits.w))), given);
    } else if (forward.over == Over::pixels) {
      const Tiling t = moments_tiling(forward);
      const Partials partials = {static_cast<float*>(forward.workspace), int(channels)};
      sum_pixels<S>(forward, t, partials, stream);
      const dim3 grid(unsigned(n * tiles_of(t)), groups_of_channels(forward));
      LM_LAUNCH(heatmap_moments_backward_pixels<S>, grid, moments_threads, 0, stream, logits, grad, t,
                scale_of(forward), inverse_temperature, partials, tiles_of(t), given);
    } else {
      const int pixels = pixels_of_tile(channels, slope_values), pitch = pixels + 4;
      const Tiling t = tiling_of(forward.logits.h, forward.logits.w, pixels, moments_rows);
      const size_t bytes = size_t(channels * (pitch + slope_values)) * sizeof(float);
      LM_LAUNCH(heatmap_moments_backward_channels<S>, unsigned(n * tiles_of(t)), moments_threads, bytes, stream, logits,
                grad, t, scale_of(forward), inverse_temperature, pitch, given);
    }
  });
}

}  // namespace lmdis
