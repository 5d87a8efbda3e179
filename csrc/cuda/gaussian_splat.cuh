// What calls of render_gaussians and splat_landmarks launch: all maps by one kernel, their gradients by tiles and sums.
#pragma once

#include "gaussian_maps.cuh"

namespace lmdis {

// Beyond so many landmarks a block's shared memory would hold too few pixels.
constexpr int most_splat_landmarks = 128;

// Why a call cannot be run, or null.
inline const char* refusal(const GaussianSplat& call) {
  if (call.landmarks > most_splat_landmarks) return "Gaussians are rendered for at most 128 landmarks";
  if (call.features > most_maps) return "splat_landmarks takes at most 65535 features";
  return call.levels <= most_levels ? nullptr : "Gaussians are rendered of at most 16 widths";
}
inline const char* refusal(const GaussianSplatBackward& call) { return refusal(call.forward); }

inline Levels levels_of(const GaussianSplat& call) {
  const Maps& m = call.maps;
  Levels v{};
  v.coords = static_cast<const float*>(call.coords);
  v.landmarks = int(call.landmarks), v.channels = int(GaussianSplat::channels(call));
  v.features = int(call.features), v.count = int(call.levels);
  v.normalize = call.normalize;
  v.x = axis_frame(m.w, m.h * m.w, call.align_corners), v.y = axis_frame(m.h, m.h * m.w, call.align_corners);
  for (int i = 0; i < v.count && i < most_levels; ++i) {
    v.precision[i] = float(1.4426950408889634 / (2 * call.sigma[i] * call.sigma[i]));
    v.gain[i] = float(call.gain[i]);
    v.floor[i] = call.background ? float(call.background[i]) : 0.f;
  }
  return v;
}

// Without features a block takes one at a time, of none.
inline PoolBlock splat_block(const GaussianSplat& call, bool backward) {
  const int64_t channels = GaussianSplat::channels(call), features = call.features > 0 ? call.features : 1;
  return pool_block(channels, features, backward ? 3 : 2, 2 * level_axis + (backward ? 4 : 0), true);
}
inline size_t splat_shared(const GaussianSplat& call, const PoolBlock& block, bool backward) {
  const int numbers = splat_memory(int(call.landmarks), int(GaussianSplat::channels(call)), block, backward).end;
  return size_t(numbers > pool_scratch ? numbers : pool_scratch) * sizeof(float);
}

inline void run(const GaussianSplat& call, Stream stream) {
  if (call.maps.n == 0) return;
  const PoolBlock block = splat_block(call, false);
  const Tiling t = pool_tiling(call.maps, block);
  const dim3 grid(unsigned(call.maps.n * tiles_of(t)), unsigned(call.levels));
  const size_t bytes = splat_shared(call, block, false);
  const float* const vectors = static_cast<const float*>(call.vectors);
  with_storage(call.maps.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    LM_LAUNCH(gaussian_splat_maps<S>, grid, product_threads, bytes, stream, map_of<S>(call.maps), vectors,
              levels_of(call), t, block);
  });
}

// The parts of the sums: how many an image has of each, and where those of the vectors begin.
struct SplatParts {
  int tiles;
  unsigned blocks;
  int64_t moved;
};
inline SplatParts splat_parts(const GaussianSplatBackward& call) {
  const GaussianSplat& forward = call.forward;
  const PoolBlock block = splat_block(forward, true);
  const int tiles = tiles_of(pool_tiling(forward.maps, block));
  const unsigned blocks = forward.features > 0 ? pool_blocks(forward.features, block) : 1;
  const int64_t moved = call.need_coords ? forward.maps.n * forward.levels * tiles * blocks * 2 * forward.landmarks : 0;
  return {tiles, blocks, moved};
}
inline int64_t workspace_bytes(const GaussianSplatBackward& call) {
  const GaussianSplat& forward = call.forward;
  const SplatParts parts = splat_parts(call);
  const int64_t vectors = call.need_vectors ? GaussianSplat::channels(forward) * forward.features : 0;
  return (parts.moved + forward.maps.n * forward.levels * parts.tiles * vectors) * int64_t(sizeof(float));
}

inline void run(const GaussianSplatBackward& call, Stream stream) {
  const GaussianSplat& forward = call.forward;
  const int64_t n = forward.maps.n, channels = GaussianSplat::channels(forward);
  if (n == 0) return;
  const PoolBlock block = splat_block(forward, true);
  const Tiling t = pool_tiling(forward.maps, block);
  const SplatParts parts = splat_parts(call);
  const dim3 grid(unsigned(n * parts.tiles), unsigned(forward.levels), parts.blocks);
  const size_t bytes = splat_shared(forward, block, true);
  float* const workspace = static_cast<float*>(call.workspace);
  float* const moved = call.need_coords ? workspace : nullptr;
  float* const pooled = call.need_vectors ? workspace + parts.moved : nullptr;
  const float* const vectors = static_cast<const float*>(forward.vectors);
  with_storage(forward.maps.dtype, [&](auto* storage) {
    using S = std::remove_pointer_t<decltype(storage)>;
    with_rows(channels, block, [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      LM_LAUNCH((gaussian_splat_backward_partials<S, R>), grid, product_threads, bytes, stream, map_of<S>(forward.maps),
                vectors, levels_of(forward), t, block, moved, pooled);
    });
  });
  const int tiles = int(forward.levels) * parts.tiles, points = int(2 * forward.landmarks);
  const int values = int(channels * forward.features);
  const TileSums of_coords = {moved, tiles * int(parts.blocks), points, n * points,
                              static_cast<float*>(call.grad_coords)};
  const TileSums of_vectors = {pooled, tiles, values, n * values, static_cast<float*>(call.grad_vectors)};
  sum_over_tiles(call.need_coords ? of_coords : TileSums{}, call.need_vectors ? of_vectors : TileSums{}, stream);
}

}  // namespace lmdis
