// Bilinear reading of an image at the positions of a block's pixels: all channels of a pixel, in any layout.
#pragma once

#include "warp_positions.cuh"

namespace lmdis {

// The four neighbours of a position in a plane: the first one's offset, what leads to the right and below, and what
// 00, 01 (below), 10 (right) and 11 count for.
struct Corners {
  int64_t at, right, below;
  float share[4];
};
LM_DEVICE Corners corners_of(const Neighbours& x, const Neighbours& y, int64_t stride_h, int64_t stride_w) {
  Corners c;
  c.at = y.first * stride_h + x.first * stride_w;
  c.right = (x.second - x.first) * stride_w;
  c.below = (y.second - y.first) * stride_h;
  c.share[0] = x.weight[0] * y.weight[0], c.share[1] = x.weight[0] * y.weight[1];
  c.share[2] = x.weight[1] * y.weight[0], c.share[3] = x.weight[1] * y.weight[1];
  return c;
}
template <class S>
LM_DEVICE const S* corner(const S* plane, const Corners& c, int k) {
  return plane + (k % 2 ? c.below : 0) + (k / 2 ? c.right : 0);
}

// Planes that are read before any is written, so that their reads do not wait for one another: those of a picture.
constexpr int planes_at_once = 3;

// A value of a pixel after the other, plane by plane: a warp reads and writes neighbouring pixels of a row.
template <class S>
LM_DEVICE void sample_planes(const Map<S>& image, const Map<S>& out, const Corners (&corners)[warp_pixels],
                             const S* const (&from)[warp_pixels], S* const (&to)[warp_pixels],
                             const bool (&inside)[warp_pixels]) {
  for (int first = 0; first < out.channels; first += planes_at_once) {
    S values[planes_at_once][warp_pixels][4];
#pragma unroll
    for (int j = 0; j < planes_at_once; ++j) {
      if (first + j >= out.channels) continue;
#pragma unroll
      for (int k = 0; k < warp_pixels; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          values[j][k][i] = load(corner(from[k] + (first + j) * image.stride_c, corners[k], i));
    }
#pragma unroll
    for (int j = 0; j < planes_at_once; ++j) {
      if (first + j >= out.channels) continue;
#pragma unroll
      for (int k = 0; k < warp_pixels; ++k) {
        const float sum =
            to_float(values[j][k][0]) * corners[k].share[0] + to_float(values[j][k][1]) * corners[k].share[1] +
            to_float(values[j][k][2]) * corners[k].share[2] + to_float(values[j][k][3]) * corners[k].share[3];
        if (inside[k]) store(to[k] + (first + j) * out.stride_c, from_float<S>(sum));
      }
    }
  }
}

// Where a pixel's channels lie side by side, in whole multiples of 16 bytes: neighbouring threads take neighbouring
// ones, as the pixels' places are known to all threads of the block.
struct PlacesInShared {
  LM_SHARED_POINTER(int64_t) at;  // corner, right, below, target of each pixel
  LM_SHARED_POINTER(float) share;
};
template <int threads, class S>
LM_DEVICE void sample_channels(const Map<S>& image, const Map<S>& out, int64_t n, const PlacesInShared& places,
                               int pixels) {
  constexpr int V = wide<S>;
  const int words = out.channels / V;
  const S* const from = image.data + n * image.stride_n;
  S* const to = out.data + n * out.stride_n;
  for (int64_t i = threadIdx.x; i < int64_t(words) * pixels; i += threads) {
    const int pixel = int(quotient(i, words)), c = int(i - int64_t(pixel) * words) * V;
    const int64_t at = places.at[4 * pixel], right = places.at[4 * pixel + 1], below = places.at[4 * pixel + 2];
    const int64_t target = places.at[4 * pixel + 3];
    const Vector<float, 4> share = load_shared<4>(places.share + 4 * pixel);
    const S* const first = from + at + c;
    const Vector<S, V> v_00 = load_vector<V>(first), v_01 = load_vector<V>(first + below);
    const Vector<S, V> v_10 = load_vector<V>(first + right), v_11 = load_vector<V>(first + below + right);
    Vector<S, V> word;
#pragma unroll
    for (int j = 0; j < V; ++j)
      word[j] = from_float<S>(to_float(v_00[j]) * share[0] + to_float(v_01[j]) * share[1] +
                              to_float(v_10[j]) * share[2] + to_float(v_11[j]) * share[3]);
    store_vector<V>(to + target + c, word);
  }
}

constexpr int sample_threads = 128;

// A tile of the warped image, all channels.
template <class S, class real>
LM_KERNEL(sample_threads, 6)
tps_warp_sample(Map<S> image, Map<S> out, Plates<real> plates, WarpAxis<real> along_x, WarpAxis<real> along_y,
                bool zeros, bool side_by_side, unsigned tiles) {
  constexpr int tile = sample_threads * warp_pixels;
  LM_SHARED(real, controls, 4 * control_chunk);
  LM_SHARED(real, maps, map_numbers);
  LM_SHARED(int64_t, places, 4 * tile);
  LM_SHARED(float, shares, 4 * tile);
  const int64_t n = blockIdx.x / tiles, first = int64_t(blockIdx.x % tiles) * tile;
  WarpPixel<real> pixels[warp_pixels];
  place_pixels<sample_threads>(plates, along_x, along_y, n, first, controls, maps, pixels);
  Corners corners[warp_pixels];
#pragma unroll
  for (int k = 0; k < warp_pixels; ++k)
    corners[k] =
        corners_of(neighbours(along_x, pixels[k].column, pixels[k].move.x, zeros),
                   neighbours(along_y, pixels[k].row, pixels[k].move.y, zeros), image.stride_h, image.stride_w);
  if (side_by_side) {
#pragma unroll
    for (int k = 0; k < warp_pixels; ++k) {
      const int i = k * sample_threads + threadIdx.x;
      places[4 * i] = corners[k].at, places[4 * i + 1] = corners[k].right, places[4 * i + 2] = corners[k].below;
      places[4 * i + 3] = pixels[k].row * out.stride_h + pixels[k].column * out.stride_w;
      store_shared<4>(shares + 4 * i,
                      {corners[k].share[0], corners[k].share[1], corners[k].share[2], corners[k].share[3]});
    }
    __syncthreads();
    const int64_t left = int64_t(along_x.count) * along_y.count - first;
    return sample_channels<sample_threads>(image, out, n, {places, shares}, left < tile ? int(left) : tile);
  }
  const S* from[warp_pixels];
  S* to[warp_pixels];
  bool inside[warp_pixels];
#pragma unroll
  for (int k = 0; k < warp_pixels; ++k) {
    from[k] = image.data + n * image.stride_n + corners[k].at;
    to[k] = out.data + n * out.stride_n + pixels[k].row * out.stride_h + pixels[k].column * out.stride_w;
    inside[k] = pixels[k].inside;
  }
  sample_planes(image, out, corners, from, to, inside);
}

}  // namespace lmdis
