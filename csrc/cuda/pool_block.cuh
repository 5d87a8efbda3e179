// How blocks cut what is pooled or spread, and the sums of their tiles.
#pragma once

#include "product.cuh"

namespace lmdis {

// How a block cuts a pool: pixels of a step, features at a time, their pitch in shared memory.
struct PoolBlock {
  int pixels, features, pitch;
};
// Numbers of shared memory for the features, where sums of 4 pixels a thread go through as well.
LM_FUNCTION int features_numbers(const PoolBlock& b) {
  return b.features * b.pitch > 4 * product_threads ? b.features * b.pitch : 4 * product_threads;
}

constexpr int pool_steps = 8;

// Pixels and features of a block that needs, besides weights and features, so many numbers for each channel and pixel
// and for each channel, and for each feature and channel one where there are coefficients.
inline PoolBlock pool_block(int64_t channels, int64_t features, int of_channel_pixel, int of_channel,
                            bool coefficients) {
  const auto fits = [&](const PoolBlock& b) {
    const int64_t numbers = channels * (b.pitch + of_channel_pixel * b.pixels + of_channel) + features_numbers(b) +
                            (coefficients ? b.features * channels : 0);
    return numbers * int64_t(sizeof(float)) <= tile_bytes && pool_units(int(channels), b.features) <= product_threads;
  };
  // few enough that with_rows() finds every channel a thread
  for (int pixels = channels <= 64 ? 64 : channels <= 128 ? 32 : 16;; pixels /= 2)
    for (int at_once = int(features < 64 ? features : 64);; at_once = (at_once + 1) / 2) {
      const PoolBlock block = {pixels, at_once, pixels + 4};
      if (fits(block) || (pixels == 8 && at_once <= 4)) return block;
      if (at_once <= 4) break;
    }
}
// Bytes of shared memory: what the block's parts need, and no less than what sums over groups or rows go through.
inline size_t pool_shared(const PoolBlock& b, int64_t channels, int64_t numbers) {
  const int64_t all = channels * b.pitch + features_numbers(b) + numbers;
  return size_t(all > pool_scratch ? all : pool_scratch) * sizeof(float);
}
// Tiles have at most as many rows as a step has pixels: so much memory there is for weights along an axis.
inline Tiling pool_tiling(const Maps& maps, const PoolBlock& block) {
  const Tiling t = tiling_of(maps.h, maps.w, block.pixels, 1);
  const int fitting = block.pixels / t.rows;
  return with_steps(t, maps.h, fitting < pool_steps ? fitting : pool_steps);
}
inline unsigned pool_blocks(int64_t features, const PoolBlock& block) {
  return unsigned((features + block.features - 1) / block.features);
}

// Calls body(a number that is known when compiling): rows of a thread, that are so far apart, of so many channels.
template <class Body>
void with_rows(int64_t channels, const PoolBlock& block, Body body) {
  const int64_t rows = product_threads / (block.pixels / 4);
  if (channels <= 2 * rows)
    body(std::integral_constant<int, 2>{});
  else
    body(std::integral_constant<int, 4>{});
}

// Sums of `values` numbers over tiles: from [image][tile][value] to [image][value], `all` of them.
struct TileSums {
  const float* from;
  int tiles, values;
  int64_t all;
  float* to;
};
LM_DEVICE void sum_tiles(const TileSums& sums, int64_t i) {
  const int64_t n = i / sums.values, value = i - n * sums.values;
  double sum = 0;
  for (int t = 0; t < sums.tiles; ++t) sum += double(load(sums.from + (n * sums.tiles + t) * sums.values + value));
  store(sums.to + i, float(sum));
}
// In double, a thread for each value of two results; the second may be empty.
LM_KERNEL(product_threads, 1)
sum_of_tiles(TileSums first, TileSums second) {
  const int64_t i = int64_t(blockIdx.x) * product_threads + threadIdx.x;
  if (i < first.all)
    sum_tiles(first, i);
  else if (i - first.all < second.all)
    sum_tiles(second, i - first.all);
}

inline unsigned blocks_for(int64_t values) { return unsigned((values + product_threads - 1) / product_threads); }
inline void sum_over_tiles(const TileSums& first, const TileSums& second, Stream stream) {
  LM_LAUNCH(sum_of_tiles, blocks_for(first.all + second.all), product_threads, 0, stream, first, second);
}

}  // namespace lmdis
