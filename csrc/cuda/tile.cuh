// Tiles of maps between global memory, in any layout and dtype, and shared memory in float.
#pragma once

#include "../maps.h"
#include "device.cuh"

namespace lmdis {

// Shared memory that a block may have without asking the driver, less what kernels have besides tiles.
constexpr int tile_bytes = 46 * 1024;

// Blocks along a grid's second and third axis, which go through maps.
constexpr int most_maps = 65535;

// Where 16 bytes lie side by side: in no place that can be relied on, along rows, or across the channels of pixels.
enum class Layout { strided, rows, pixels };

template <class S>
struct Map {
  S* data;
  int64_t stride_n, stride_c, stride_h, stride_w;
  int channels, height, width;
  Layout layout;
};

// Values of 16 bytes.
template <class S>
constexpr int wide = 16 / int(sizeof(S));

template <class S>
Map<S> map_of(const Maps& m) {
  Map<S> map = {static_cast<S*>(m.data), m.stride_n, m.stride_c, m.stride_h, m.stride_w, int(m.c), int(m.h), int(m.w),
                Layout::strided};
  const auto fits = [](int64_t stride, int64_t count) { return count == 1 || stride % wide<S> == 0; };
  if (reinterpret_cast<uintptr_t>(m.data) % 16 || !fits(m.stride_n, m.n) || !fits(m.stride_h, m.h)) return map;
  if (m.w % wide<S> == 0 && m.stride_w == 1 && fits(m.stride_c, m.c)) map.layout = Layout::rows;
  if (m.c > 1 && m.stride_c == 1 && (m.w == 1 || m.stride_w == m.c)) map.layout = Layout::pixels;
  return map;
}

// A map cut into tiles of `columns`, whose threads take `rows` at a time and step down `steps` times.
struct Tiling {
  int columns, rows, steps, across, down;
};
LM_FUNCTION int tiles_of(const Tiling& t) { return t.across * t.down; }

// For at most so many pixels at a time, in 32 rows at most, and about so many rows in all. Slices of a row begin at
// whole multiples of 16 bytes; narrower ones are taken where more pixels have a thread then.
LM_FUNCTION Tiling tiling_of(int64_t height, int64_t width, int pixels, int tile_rows) {
  const int64_t highest = height < 32 ? height : 32;
  Tiling best = {0, 0, 0, 0, 0};
  int64_t most = 0;
  for (int64_t slices = (width + pixels - 1) / pixels, last = slices + 3; slices <= last; ++slices) {
    const int64_t columns = slices == 1 ? width : ((width + slices - 1) / slices + 7) / 8 * 8;
    if (columns > pixels || columns * (slices - 1) >= width) continue;
    const int64_t fitting = pixels / columns, rows = fitting < highest ? fitting : highest;
    if (rows * width / slices <= most) continue;
    most = rows * width / slices;
    best.columns = int(columns), best.rows = int(rows), best.across = int(slices);
  }
  if (best.columns == 0) best.columns = pixels, best.rows = 1, best.across = int((width + pixels - 1) / pixels);
  const int64_t high = (height + best.rows - 1) / best.rows, wanted = tile_rows / best.rows;
  best.steps = int(wanted < 1 ? 1 : wanted < high ? wanted : high);
  best.down = int((high + best.steps - 1) / best.steps);
  return best;
}

// The same with so many steps, or as many as the map has.
LM_FUNCTION Tiling with_steps(Tiling t, int64_t height, int steps) {
  const int high = int((height + t.rows - 1) / t.rows);
  t.steps = steps < high ? steps : high;
  t.down = (high + t.steps - 1) / t.steps;
  return t;
}

// A step of a tile: from pixel (x, y) of image n so many columns and rows; channels `first` and on, `count` of them.
struct Step {
  int64_t n;
  int first, count, x, y, columns, rows;
};
LM_DEVICE Step step_of(const Tiling& t, int64_t n, int tile, int step, int first, int count) {
  const int x = tile % t.across * t.columns, y = (tile / t.across * t.steps + step) * t.rows;
  return {n, first, count, x, y, t.columns, t.rows};
}

// Whether every thread's pixel of a step is inside the map, and there are as many as `pixels`.
template <class S>
LM_DEVICE bool is_whole(const Map<S>& map, const Step& s, int pixels) {
  return s.x + s.columns <= map.width && s.y + s.rows <= map.height && s.columns * s.rows == pixels;
}

// Calls move(offset of V values in the map, channel from `first`, pixel of the step) in every thread for its share, and
// single(offset, channel, pixel) where single values are left.
template <int threads, class S, class Move, class Single>
LM_DEVICE void for_each_word(const Map<S>& map, const Step& s, Move move, Single single) {
  constexpr int V = wide<S>;
  const int64_t base = s.n * map.stride_n;
  const int columns = s.columns < map.width - s.x ? s.columns : map.width - s.x;
  const int rows = s.rows < map.height - s.y ? s.rows : map.height - s.y;
  if (map.layout == Layout::rows) {
    const int words = columns / V, of_channel = words * rows;
    for (int i = threadIdx.x; i < of_channel * s.count; i += threads) {
      const int c = i / of_channel, rest = i - c * of_channel, r = rest / words, x = (rest - r * words) * V;
      move(base + (s.first + c) * map.stride_c + (s.y + r) * map.stride_h + s.x + x, c, r * s.columns + x);
    }
    return;
  }
  if (map.layout == Layout::pixels && s.count == map.channels) {
    const int run = columns * map.channels, words = run / V;
    const int64_t start = base + int64_t(s.x) * map.channels;
    for (int i = threadIdx.x; i < words * rows; i += threads) {
      const int r = i / words, at = (i - r * words) * V, x = at / map.channels;
      move(start + (s.y + r) * map.stride_h + at, at - x * map.channels, r * s.columns + x);
    }
    const int left = run - words * V;
    for (int i = threadIdx.x; i < left * rows; i += threads) {
      const int r = i / left, at = words * V + i - r * left, x = at / map.channels;
      single(start + (s.y + r) * map.stride_h + at, at - x * map.channels, r * s.columns + x);
    }
    return;
  }
  if (map.layout == Layout::pixels && (s.first | s.count | map.channels) % V == 0) {
    const int words = s.count / V, of_row = words * columns;
    for (int i = threadIdx.x; i < of_row * rows; i += threads) {
      const int r = i / of_row, rest = i - r * of_row, x = rest / words, c = (rest - x * words) * V;
      move(base + (s.y + r) * map.stride_h + int64_t(s.x + x) * map.channels + s.first + c, c, r * s.columns + x);
    }
    return;
  }
  // neighbouring threads take neighbouring values, as far as there are any
  const bool channels_first = map.stride_c == 1 && map.stride_w != 1;
  const int of_channel = columns * rows;
  for (int i = threadIdx.x; i < of_channel * s.count; i += threads) {
    const int c = channels_first ? i % s.count : i / of_channel, rest = channels_first ? i / s.count : i % of_channel;
    const int r = rest / columns, x = rest - r * columns;
    single(base + (s.first + c) * map.stride_c + (s.y + r) * map.stride_h + (s.x + x) * map.stride_w, c,
           r * s.columns + x);
  }
}

// The place of the value after the one of (channel, pixel) in a map whose channels lie side by side.
LM_DEVICE void advance(int channels, int& channel, int& pixel) {
  if (++channel == channels) channel = 0, ++pixel;
}

// A step of a map to shared memory, channel c's pixel p at c pitch + p. The pitch is 4 more than a multiple of 32, so
// that neither layout has its lanes in one bank. Pixels outside the map are left alone.
template <int threads, class S>
LM_DEVICE void load_step_inlined(const Map<S>& map, const Step& s, LM_SHARED_POINTER(float) to, int pitch) {
  constexpr int V = wide<S>;
  const bool along = map.layout == Layout::rows;
  for_each_word<threads>(
      map, s,
      [&](int64_t offset, int c, int p) {
        const Vector<S, V> word = load_vector<V>(map.data + offset);
        if (along && s.columns % 4 == 0) {
#pragma unroll
          for (int i = 0; i < V; i += 4) {
            Vector<float, 4> part;
#pragma unroll
            for (int j = 0; j < 4; ++j) part[j] = to_float(word[i + j]);
            store_shared<4>(to + (c * pitch + p + i), part);
          }
          return;
        }
#pragma unroll
        for (int i = 0; i < V; ++i) {
          to[c * pitch + p] = to_float(word[i]);
          if (along)
            ++p;
          else
            advance(map.channels, c, p);
        }
      },
      [&](int64_t offset, int c, int p) { to[c * pitch + p] = to_float(load(map.data + offset)); });
}

template <int threads, class S>
LM_DEVICE_CALL void load_step(Map<S> map, Step s, LM_SHARED_POINTER(float) to, int pitch) {
  LM_ASSUME_SHARED(to);
  load_step_inlined<threads>(map, s, to, pitch);
}

// The reverse of load_step.
template <int threads, class S>
LM_DEVICE_CALL void store_step(Map<S> map, Step s, LM_SHARED_POINTER(float) from, int pitch) {
  LM_ASSUME_SHARED(from);
  constexpr int V = wide<S>;
  const bool along = map.layout == Layout::rows;
  for_each_word<threads>(
      map, s,
      [&](int64_t offset, int c, int p) {
        Vector<S, V> word;
        if (along && s.columns % 4 == 0) {
#pragma unroll
          for (int i = 0; i < V; i += 4) {
            const Vector<float, 4> part = load_shared<4>(from + (c * pitch + p + i));
#pragma unroll
            for (int j = 0; j < 4; ++j) word[i + j] = from_float<S>(part[j]);
          }
        } else {
#pragma unroll
          for (int i = 0; i < V; ++i) {
            word[i] = from_float<S>(from[c * pitch + p]);
            if (along)
              ++p;
            else
              advance(map.channels, c, p);
          }
        }
        store_vector<V>(map.data + offset, word);
      },
      [&](int64_t offset, int c, int p) { store(map.data + offset, from_float<S>(from[c * pitch + p])); });
}

// Calls body(a null pointer to the storage type).
template <class Body>
void with_storage(Dtype dtype, Body body) {
  if (dtype == Dtype::bfloat16)
    body(static_cast<BFloat16*>(nullptr));
  else if (dtype == Dtype::float16)
    body(static_cast<Half*>(nullptr));
  else
    body(static_cast<float*>(nullptr));
}

}  // namespace lmdis
