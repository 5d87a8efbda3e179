// What calls of tps_warp launch: one kernel forward; backward one that leaves sums of tiles for the spline, and their
// sums. The image's gradient takes one more before them and after them, unless it is float and summed by atomics.
#pragma once

#include "warp_gradient.cuh"

namespace lmdis {

template <class real>
Plates<real> plates_of(const TpsWarp& call) {
  return {static_cast<const real*>(call.centers),
          static_cast<const real*>(call.weights),
          static_cast<const real*>(call.affine),
          static_cast<const real*>(call.before),
          int(call.points),
          call.shared};
}
inline unsigned warp_tiles(const TpsWarp& call, int threads) {
  const int64_t tile = int64_t(threads) * warp_pixels;
  return unsigned((call.out.h * call.out.w + tile - 1) / tile);
}

// Calls body(a null pointer to the type of positions).
template <class Body>
void with_real(const TpsWarp& call, Body body) {
  call.exact ? body(static_cast<double*>(nullptr)) : body(static_cast<float*>(nullptr));
}

// Why a call cannot be run: there is no reason.
inline const char* refusal(const TpsWarp&) { return nullptr; }
inline const char* refusal(const TpsWarpBackward&) { return nullptr; }

inline int64_t workspace_bytes(const TpsWarp&) { return 0; }

inline void run(const TpsWarp& call, Stream stream) {
  if (call.image.n == 0) return;
  const unsigned tiles = warp_tiles(call, sample_threads);
  with_storage(call.image.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    const Map<S> image = map_of<S>(call.image), out = map_of<S>(call.out);
    const bool side_by_side =
        image.layout == Layout::pixels && out.layout == Layout::pixels && out.channels % wide<S> == 0;
    with_real(call, [&](auto* positions) {
      using real = std::remove_pointer_t<decltype(positions)>;
      LM_LAUNCH((tps_warp_sample<S, real>), unsigned(call.image.n) * tiles, sample_threads, 0, stream, image, out,
                plates_of<real>(call), warp_axis<real>(call.out.w, call.image.w, call.align_corners),
                warp_axis<real>(call.out.h, call.image.h, call.align_corners), call.zeros, side_by_side, tiles);
    });
  });
}

// Memory that a backward pass works in: sums for the image's gradient (or none), largest gradients of parts of the
// batch (or none), sums of tiles. Parts begin at multiples of 16 bytes.
struct WarpMemory {
  unsigned tiles;
  int values, centers;
  int64_t image_words, largest, bytes;  // 16 bytes each; where the largest gradients are
};
inline WarpMemory warp_memory(const TpsWarpBackward& call) {
  const Maps& image = call.forward.image;
  const int64_t points = call.forward.points, of_spline = 2 * points + (call.forward.before ? 12 : 6);
  WarpMemory m{};
  m.tiles = warp_tiles(call.forward, gradient_threads);
  m.centers = call.need_centers ? int(of_spline) : 0;
  m.values = int(of_spline + (call.need_centers ? 2 * points : 0));
  const int64_t of_pixel = call.repeatable ? sizeof(int64_t) : image.dtype == Dtype::float32 ? 0 : sizeof(float);
  if (call.need_image) m.image_words = (image.n * image.c * image.h * image.w * of_pixel + 15) / 16;
  m.largest = 16 * m.image_words;
  const int64_t sums = call.need_spline || call.need_centers ? image.n * m.tiles * m.values : 0;
  m.bytes = m.largest + (largest_parts + sums) * int64_t(sizeof(float));
  return m;
}
inline int64_t workspace_bytes(const TpsWarpBackward& call) { return warp_memory(call).bytes; }

// The largest gradient counts so much: an image pixel receives at most what all output pixels give, which has to stay
// below a quarter of not_a_number.
inline double most_of(int64_t pixels) {
  double most = double(not_a_number / 4);
  for (int64_t i = 1; i <= pixels; i *= 2) most /= 2;
  return most;
}

template <class real>
SplineGradients<real> gradients_of(const TpsWarpBackward& call, const WarpMemory& m, const float* partials) {
  const auto asked = [](Dense tensor, bool needed) { return needed ? static_cast<real*>(tensor) : nullptr; };
  const TpsWarp& forward = call.forward;
  return {partials,
          forward.image.n,
          int(m.tiles),
          int(forward.points),
          m.values,
          m.centers,
          forward.shared,
          asked(call.grad_centers, call.need_centers),
          asked(call.grad_weights, call.need_spline),
          asked(call.grad_affine, call.need_spline),
          asked(call.grad_before, call.need_spline && forward.before)};
}

inline void run(const TpsWarpBackward& call, Stream stream) {
  const TpsWarp& forward = call.forward;
  const Maps& of_image = call.grad_image;
  const int64_t n = forward.image.n;
  const bool of_spline = call.need_spline || call.need_centers;
  if (n == 0 || !(call.need_image || of_spline)) return;
  const WarpMemory m = warp_memory(call);
  char* const memory = static_cast<char*>(call.sums);
  float* const largest = reinterpret_cast<float*>(memory + m.largest);
  const bool whole = call.need_image && call.repeatable;
  ImageSums sums = {};
  if (call.need_image)
    sums = {m.image_words ? memory : of_image.data,
            of_image.stride_n,
            of_image.stride_c,
            of_image.stride_h,
            of_image.stride_w,
            whole ? largest : nullptr,
            most_of(forward.out.h * forward.out.w)};
  float* const partials = of_spline ? largest + largest_parts : nullptr;
  with_storage(forward.image.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    const Map<S> image = map_of<S>(forward.image), grad = map_of<S>(forward.out);
    if (m.image_words)
      LM_LAUNCH(tps_warp_backward_prepare<S>, largest_parts, gradient_threads, 0, stream,
                reinterpret_cast<float*>(memory), m.image_words, grad, n, whole ? largest : nullptr);
    with_real(forward, [&](auto* positions) {
      using real = std::remove_pointer_t<decltype(positions)>;
      LM_LAUNCH((tps_warp_backward_map<S, real>), unsigned(n) * m.tiles, gradient_threads, 0, stream, grad, image,
                plates_of<real>(forward), warp_axis<real>(forward.out.w, forward.image.w, forward.align_corners),
                warp_axis<real>(forward.out.h, forward.image.h, forward.align_corners), forward.zeros, m.tiles, sums,
                SplineSums{partials, m.values, m.centers});
    });
    if (m.image_words) {
      const int64_t count = n * forward.image.c * forward.image.h * forward.image.w;
      constexpr int64_t of_block = gradient_threads * wide<S>;
      LM_LAUNCH(tps_warp_backward_convert<S>, unsigned((count + of_block - 1) / of_block), gradient_threads, 0, stream,
                sums, static_cast<S*>(of_image.data), count);
    }
  });
  if (!of_spline) return;
  with_real(forward, [&](auto* positions) {
    using real = std::remove_pointer_t<decltype(positions)>;
    const SplineGradients<real> gradients = gradients_of<real>(call, m, partials);
    const int own = values_of_image(gradients);
    LM_LAUNCH(tps_warp_backward_finish<real>, unsigned(n * sum_blocks(own) + sum_blocks(m.values - own)),
              gradient_threads, 0, stream, gradients);
  });
}

}  // namespace lmdis
