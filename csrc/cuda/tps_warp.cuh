// What calls of tps_warp launch: one kernel forward.
#pragma once

#include "bilinear.cuh"

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

}  // namespace lmdis
