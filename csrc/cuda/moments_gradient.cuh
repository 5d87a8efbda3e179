// Gradient of the logits from those of the moments: a map of the pixels, nothing summed over the image; see
// lmdis_fast/reference/heatmap_moments.py: dz = q (h - sum q h) / T with h a parabola about each landmark.
#pragma once

#include "spatial_moments.cuh"

namespace lmdis {

// Upstream gradients and what forward has returned, contiguous; gradients may be null.
struct MomentsGradient {
  const float *grad_coords, *grad_variance, *grad_mass, *coords, *variance, *mass;
  int count, second;
  double eps;
  bool divided;  // by the mass
  Frame frame;
};

// Coefficients of h for one channel: what is multiplied with the offsets, in two words of 4.
constexpr int slope_values = 8;
LM_DEVICE float or_zero(const float* gradient, int64_t at) { return gradient ? load(gradient + at) : 0.f; }
LM_DEVICE void load_slopes(const MomentsGradient& g, int64_t n, int c, LM_SHARED_POINTER(float) to) {
  Vector<float, 4> along, rest;
  if (c >= g.count) {
#pragma unroll
    for (int i = 0; i < 4; ++i) along[i] = rest[i] = 0;
  } else {
    const int64_t k = n * g.count + c, second = k * g.second;
    const double divisor = g.divided ? double(load(g.mass + k)) + g.eps : 1.0;
    const bool cross = g.second == 3;
    const Landmark grad = {or_zero(g.grad_coords, 2 * k), or_zero(g.grad_coords, 2 * k + 1),
                           or_zero(g.grad_variance, second), or_zero(g.grad_variance, second + 1),
                           cross ? or_zero(g.grad_variance, second + 2) : 0.f};
    const Landmark at = {load(g.coords + 2 * k), load(g.coords + 2 * k + 1), load(g.variance + second),
                         load(g.variance + second + 1), cross ? load(g.variance + second + 2) : 0.f};
    const double mass = g.divided ? or_zero(g.grad_mass, k) : 0.0;
    const Slopes s = slopes_of(grad, mass, at, divisor, g.divided ? g.eps / divisor : 0.0, g.frame);
    along[0] = float(at.x), along[1] = float(s.x), along[2] = float(s.xx), along[3] = float(s.x0 + s.y0);
    rest[0] = float(at.y), rest[1] = float(s.y), rest[2] = float(s.yy), rest[3] = float(s.cross);
  }
  store_shared<4>(to, along);
  store_shared<4>(to + 4, rest);
}
// h at a place in the frame.
LM_DEVICE float by_probability(LM_SHARED_POINTER(float) slopes, float x, float y) {
  const Vector<float, 4> along = load_shared<4>(slopes), rest = load_shared<4>(slopes + 4);
  const float dx = x - along[0], dy = y - rest[0];
  return (along[2] * dx + along[1]) * dx + along[3] + ((rest[2] * dy + rest[1]) + rest[3] * dx) * dy;
}

// Centre of a pixel in the frame; the numerator is an exact integer.
LM_DEVICE float place_of(int index, int count, float half_step) { return half_step * float(2 * index - (count - 1)); }

// Softmax across channels: one read, one write.
template <class S>
LM_KERNEL(moments_threads, 2)
heatmap_moments_backward_channels(Map<S> logits, Map<S> grad, Tiling tiling, float scale, float inverse_temperature,
                                  int pitch, MomentsGradient given) {
  LM_DYNAMIC_SHARED(float, z);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x, channels = logits.channels;
  const int64_t n = blockIdx.x / tiles;
  const auto slopes = z + channels * pitch;
  const int row = thread / tiling.columns, column = thread - row * tiling.columns;
  const float half_x = float(given.frame.step_x / 2), half_y = float(given.frame.step_y / 2);
  for (int c = thread; c < channels; c += moments_threads) load_slopes(given, n, c, slopes + slope_values * c);
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, 0, channels);
    if (s.y >= logits.height) break;
    __syncthreads();
    load_step<moments_threads>(logits, s, z, pitch);
    __syncthreads();
    if (row < tiling.rows && s.x + column < logits.width && s.y + row < logits.height) {
      const float x = place_of(s.x + column, logits.width, half_x), y = place_of(s.y + row, logits.height, half_y);
      const auto mine = z + thread;
      float peak = -INFINITY, total = 0, expected = 0;
#pragma unroll 4
      for (int c = 0; c < channels; ++c) peak = fmaxf(peak, mine[c * pitch]);
      peak = finite_peak(peak * scale);
#pragma unroll 4
      for (int c = 0; c < channels; ++c) {
        const float e = exp2f(mine[c * pitch] * scale - peak);
        mine[c * pitch] = e;
        total += e;
        expected += e * by_probability(slopes + slope_values * c, x, y);
      }
      const float inverse = inverse_total(total), share = inverse * inverse_temperature;
      expected *= inverse;
#pragma unroll 4
      for (int c = 0; c < channels; ++c)
        mine[c * pitch] = mine[c * pitch] * share * (by_probability(slopes + slope_values * c, x, y) - expected);
    }
    __syncthreads();
    store_step<moments_threads>(grad, s, z, pitch);
  }
}

// Softmax across pixels, whose peaks and totals are in `partials`; the sum of q h over the map is 0, because h is about
// the landmark. A background takes no part.
template <class S>
LM_KERNEL(moments_threads, 2)
heatmap_moments_backward_pixels(Map<S> logits, Map<S> grad, Tiling tiling, float scale, float inverse_temperature,
                                Partials partials, int parts, MomentsGradient given) {
  constexpr int pitch = moments_threads + 4;
  LM_SHARED(float, z, moments_warps* pitch);
  LM_SHARED(float, slopes, moments_warps* slope_values);
  LM_SHARED(float, peaks, moments_warps);
  LM_SHARED(float, shares, moments_warps);
  const int tiles = tiles_of(tiling), tile = blockIdx.x % tiles, thread = threadIdx.x;
  const int64_t n = blockIdx.x / tiles;
  const int first = blockIdx.y * moments_warps, left = logits.channels - first;
  const int count = left < moments_warps ? left : moments_warps;
  const int row = thread / tiling.columns, column = thread - row * tiling.columns;
  const float half_x = float(given.frame.step_x / 2), half_y = float(given.frame.step_y / 2);
  if (thread < count) {
    const int c = first + thread;
    load_slopes(given, n, c, slopes + slope_values * thread);
    const ChannelPeak found = channel_peak(partials, n, parts, c);
    peaks[thread] = found.peak;
    shares[thread] = c < given.count ? float(found.inverse) * inverse_temperature : 0.f;
  }
  for (int step = 0; step < tiling.steps; ++step) {
    const Step s = step_of(tiling, n, tile, step, first, count);
    if (s.y >= logits.height) break;
    __syncthreads();
    load_step<moments_threads>(logits, s, z, pitch);
    __syncthreads();
    if (row < tiling.rows && s.x + column < logits.width && s.y + row < logits.height) {
      const float x = place_of(s.x + column, logits.width, half_x), y = place_of(s.y + row, logits.height, half_y);
#pragma unroll
      for (int i = 0; i < moments_warps; ++i) {
        if (i >= count) break;
        const float q = exp2f(z[i * pitch + thread] * scale - peaks[i]) * shares[i];
        // a background has no mass, whatever its values are
        z[i * pitch + thread] = first + i < given.count ? q * by_probability(slopes + slope_values * i, x, y) : 0.f;
      }
    }
    __syncthreads();
    store_step<moments_threads>(grad, s, z, pitch);
  }
}

}  // namespace lmdis
