// Rectangles of pixels between tensors of any layout and small buffers of planes, whose arithmetic stays in the cache.
#pragma once

#include "bands.h"
#include "storage.h"

namespace lmdis {
namespace LM_ISA {

// Rows [y, y + rows) and columns [x, x + columns) of image n. In a buffer, a plane's rows are `pitch` apart: a
// multiple of the lanes, so that vectors need no tail there.
struct Tile {
  int64_t n, y, x;
  int rows, columns, pitch;
  LM_FUNCTION int round_up(int count, int step) { return (count + step - 1) / step * step; }
};

// How a map is cut into tasks and tiles: by its size alone, so that results do not depend on threads.
struct Cut {
  int tile_rows, tile_columns;
  int64_t band_rows, bands;
};
// Tiles of at most `pixels`, and of `most_rows` where that is a power of two.
template <class A>
LM_FUNCTION Cut cut_into(const Maps& maps, int64_t pixels, int most_rows, int64_t band_pixels) {
  const int V = lanes<A>::count;
  pixels = pixels < 4 * V ? 4 * V : pixels / V * V;
  Cut cut;
  const int64_t pieces = (maps.w + pixels - 1) / pixels;  // of a row, alike
  cut.tile_columns = pieces == 1 ? int(maps.w) : Tile::round_up(int((maps.w + pieces - 1) / pieces), V);
  cut.tile_rows = most_rows;
  while (cut.tile_rows > 1 && cut.tile_columns * cut.tile_rows > pixels) cut.tile_rows /= 2;
  cut.band_rows = rows_of_band(maps.w, band_pixels);
  cut.bands = bands_of(maps, band_pixels);
  return cut;
}
// Buffers of 80 KB.
template <class A>
LM_FUNCTION Cut cut_of(const Maps& maps, int channels) {
  return cut_into<A>(maps, 81920 / (int64_t(sizeof(A)) * (channels < 8 ? 8 : channels)), 4, 4096);
}
// 4 KB of each plane: the longer a tile, the more seldom a product's sums leave the registers. The weights, at most
// 128 KB, may then lie in the second cache.
template <class A>
LM_FUNCTION Cut cut_for_products(const Maps& maps, int channels, int64_t band_pixels) {
  const int64_t bytes = channels <= 32 ? 4096 : 131072 / channels;
  return cut_into<A>(maps, bytes / int64_t(sizeof(A)), 16, band_pixels);
}

// From one plane of a tile's buffer to the next: an odd number of vectors, for with a power of two all planes would
// fall on the same few lines of the first cache.
template <class A>
LM_FUNCTION int64_t plane_pitch(const Cut& cut) {
  const int V = lanes<A>::count;
  return (int64_t(cut.tile_rows) * Tile::round_up(cut.tile_columns, V)) | V;
}

// Carves arrays of A, each a whole number of vectors, from a task's scratch.
template <class A>
struct Carver {
  char* at;
  __attribute__((always_inline)) A* take(int64_t elements) {
    A* result = reinterpret_cast<A*>(at);
    at += bytes(elements);
    return result;
  }
  LM_FUNCTION size_t bytes(int64_t elements) { return (size_t(elements) * sizeof(A) + 63) / 64 * 64; }
};

// The band of rows [y, y + height) of image n that a task stands for.
struct Band {
  int64_t n, y, height;
};
LM_FUNCTION Band band_of(const Maps& maps, const Cut& cut, int64_t task) {
  const int64_t y = task % cut.bands * cut.band_rows;
  return {task / cut.bands, y, maps.h - y < cut.band_rows ? maps.h - y : cut.band_rows};
}

// visit(tile) for the tiles of a band, from top to bottom.
template <class A, class Visit>
LM_FUNCTION void for_tiles(const Maps& maps, const Cut& cut, const Band& band, Visit visit) {
  for (int64_t y = 0; y < band.height; y += cut.tile_rows)
    for (int64_t x = 0; x < maps.w; x += cut.tile_columns) {
      const int rows = int(band.height - y < cut.tile_rows ? band.height - y : cut.tile_rows);
      const int columns = int(maps.w - x < cut.tile_columns ? maps.w - x : cut.tile_columns);
      visit(Tile{band.n, band.y + y, x, rows, columns, Tile::round_up(columns, lanes<A>::count)});
    }
}

// Runs task(job, i, scratch) for i < count in torch's threads.
template <class Job>
static void run_tasks(const Job& job, int64_t count, void (*task)(const Job&, int64_t, char*)) {
  struct Context {
    const Job& job;
    void (*task)(const Job&, int64_t, char*);
  } context{job, task};
  parallel_tasks(count, job.scratch_bytes(), &context, [](void* opaque, char* scratch, int64_t first, int64_t last) {
    const Context& c = *static_cast<Context*>(opaque);
    for (int64_t i = first; i < last; ++i) c.task(c.job, i, scratch);
  });
}

enum class Layout { planar, interleaved, strided };

// planar: pixels of a row lie side by side; interleaved: channels of a pixel do (channels_last).
LM_FUNCTION Layout layout_of(const Maps& maps) {
  if (maps.stride_w == 1 || maps.w == 1) return Layout::planar;
  return maps.stride_c == 1 ? Layout::interleaved : Layout::strided;
}

template <class S>
LM_FUNCTION S* address(const Maps& maps, int64_t n, int64_t c, int64_t y, int64_t x) {
  return static_cast<S*>(maps.data) + n * maps.stride_n + c * maps.stride_c + y * maps.stride_h + x * maps.stride_w;
}

// Contiguous runs of a planar tile: the whole tile where its rows follow each other in tensor and buffer alike.
struct Runs {
  int count, length;
};
LM_FUNCTION Runs runs_of(const Maps& maps, const Tile& tile) {
  const bool joined = maps.stride_h == tile.columns && tile.pitch == tile.columns;
  return joined ? Runs{1, tile.rows * tile.columns} : Runs{tile.rows, tile.columns};
}

// Whether a result of at least `least` bytes is on whole aligned vectors.
template <class S>
LM_FUNCTION bool large_and_aligned(const Maps& maps, int64_t least) {
  const int64_t V = lanes<arithmetic<S>>::count, bytes = maps.n * maps.c * maps.h * maps.w * int64_t(sizeof(S));
  return V * sizeof(S) >= 16 && bytes >= least && reinterpret_cast<uintptr_t>(maps.data) % (V * sizeof(S)) == 0 &&
         maps.stride_n % V == 0 && maps.stride_h % V == 0;
}
// Results too large to stay in a cache until they are read are streamed if their lines are written at once: in runs of
// one plane of a tile after the other, or a vector of each plane at a time where that is half a line of 64 bytes or
// more. Parts of lines of many planes at a time are slow, of planes that are whole pages apart most (bench/README.md).
enum class Writing { cached, vectors, runs };
template <class S>
LM_FUNCTION bool streams_runs(const Maps& maps, const Cut& cut) {
  const int64_t V = lanes<arithmetic<S>>::count;
  const Runs runs = runs_of(maps, Tile{0, 0, 0, cut.tile_rows, cut.tile_columns, cut.tile_columns});
  const int64_t bytes = runs.length * int64_t(sizeof(S));
  return layout_of(maps) == Layout::planar && large_and_aligned<S>(maps, 2 << 20) && maps.stride_c % V == 0 &&
         maps.w % V == 0 && cut.tile_columns % V == 0 && (bytes % 64 == 0 || bytes >= 512);
}
template <class S>
LM_FUNCTION bool streams_vectors(const Maps& maps, const Cut& cut) {
  const int64_t V = lanes<arithmetic<S>>::count;
  const bool halves = LM_BYTES < 64, pages = maps.stride_c * int64_t(sizeof(S)) % 4096 == 0;
  return layout_of(maps) == Layout::planar && V * sizeof(S) >= 32 && large_and_aligned<S>(maps, 4 << 20) &&
         !(halves && pages) && maps.stride_c % V == 0 && maps.w % V == 0 && cut.tile_columns % V == 0 &&
         maps.stride_h * int64_t(sizeof(S)) % 64 == 0;
}
// Of results that are made a vector of each plane at a time. `in_runs` where half lines may go through a buffer, to be
// written plane by plane; it costs 16-bit numbers more than it saves.
template <class S>
LM_FUNCTION Writing writing_of(const Maps& maps, const Cut& cut, bool in_runs) {
  if (in_runs && LM_BYTES < 64 && sizeof(S) >= 4 && streams_runs<S>(maps, cut)) return Writing::runs;
  return streams_vectors<S>(maps, cut) ? Writing::vectors : Writing::cached;
}
// Whole tiles of interleaved channels are one run.
template <class S>
LM_FUNCTION bool streams_pixels(const Maps& maps, const Cut& cut) {
  return layout_of(maps) == Layout::interleaved && lanes<arithmetic<S>>::count * sizeof(S) >= 32 &&
         large_and_aligned<S>(maps, 4 << 20) && maps.stride_w == maps.c && maps.stride_h == maps.w * maps.c &&
         cut.tile_columns == maps.w;
}

// ---- transposition -------------------------------------------------------------------------------------------------

template <class A, int B>
struct short_vector {
  typedef A type __attribute__((vector_size(B * sizeof(A))));
};

template <int B, int step, class V>
LM_FUNCTION void transpose_block(V* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < B; ++i)
    if (!(i & step)) {
      const V a = rows[i], b = rows[i + step];
      rows[i] = lower_halves<step>(a, b, numbers<B>{});
      rows[i + step] = upper_halves<step>(a, b, numbers<B>{});
    }
  if constexpr (step > 1) transpose_block<B, step / 2>(rows);
}

// to[j * to_pitch + i] = from[i * from_pitch + j] for i < count, j < width, in blocks of B x B; the last block of each
// side overlaps the one before it.
template <class A, int B>
LM_FUNCTION void transpose_blocks(const A* from, int64_t from_pitch, int count, int width, A* to, int64_t to_pitch) {
  typename short_vector<A, B>::type block[B];
  for (int i0 = 0; i0 < count; i0 += B) {
    const int i = i0 + B <= count ? i0 : count - B;
    for (int j0 = 0; j0 < width; j0 += B) {
      const int j = j0 + B <= width ? j0 : width - B;
#pragma GCC unroll 16
      for (int k = 0; k < B; ++k) memcpy(&block[k], from + (i + k) * from_pitch + j, sizeof(block[k]));
      transpose_block<B, B / 2>(block);
#pragma GCC unroll 16
      for (int k = 0; k < B; ++k) memcpy(to + (j + k) * to_pitch + i, &block[k], sizeof(block[k]));
    }
  }
}

template <class A>
static void transpose(const A* from, int64_t from_pitch, int count, int width, A* to, int64_t to_pitch) {
  const int side = count < width ? count : width;
  if (side >= lanes<A>::count)
    transpose_blocks<A, lanes<A>::count>(from, from_pitch, count, width, to, to_pitch);
  else if (lanes<A>::count > 8 && side >= 8)
    transpose_blocks<A, (lanes<A>::count > 8 ? 8 : 4)>(from, from_pitch, count, width, to, to_pitch);
  else if (lanes<A>::count > 4 && side >= 4)
    transpose_blocks<A, 4>(from, from_pitch, count, width, to, to_pitch);
  else
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < width; ++j) to[j * to_pitch + i] = from[i * from_pitch + j];
}

// ---- copies between storage and arithmetic types --------------------------------------------------------------------

template <class S>
LM_FUNCTION void widen_run(const S* from, int64_t count, arithmetic<S>* to) {
  const int V = lanes<arithmetic<S>>::count;
  int64_t i = 0;
  for (; i + V <= count; i += V) store(to + i, load(from + i));
  if (i < count) store_some(to + i, load_some(from + i, int(count - i)), int(count - i));
}
template <class S>
LM_FUNCTION void narrow_run(const arithmetic<S>* from, int64_t count, S* to, bool streaming = false) {
  const int V = lanes<arithmetic<S>>::count;
  int64_t i = 0;
  if (streaming)
    for (; i + V <= count; i += V) stream(to + i, load(from + i));
  else
    for (; i + V <= count; i += V) store(to + i, load(from + i));
  if (i < count) store_some(to + i, load_some(from + i, int(count - i)), int(count - i));
}

// Channels [c, c + channels) of a tile into planes[channel * plane_pitch + row * tile.pitch + column]; lanes between
// columns and pitch become 0.
template <class S>
static void stage(const Maps& maps, const Tile& tile, int64_t c, int channels, arithmetic<S>* planes,
                  int64_t plane_pitch, arithmetic<S>* scratch) {
  using A = arithmetic<S>;
  const int V = lanes<A>::count;
  const Layout layout = layout_of(maps);
  if (layout == Layout::planar) {
    const Runs runs = runs_of(maps, tile);
    for (int k = 0; k < channels; ++k)
      for (int run = 0; run < runs.count; ++run) {
        const S* from = address<S>(maps, tile.n, c + k, tile.y + run, tile.x);
        A* to = planes + k * plane_pitch + run * tile.pitch;
        int i = 0;
        for (; i + V <= runs.length; i += V) store(to + i, load(from + i));
        if (i < runs.length) store(to + i, load_some(from + i, runs.length - i));
      }
    return;
  }
  for (int r = 0; r < tile.rows; ++r) {
    A* to = planes + r * tile.pitch;
    if (layout == Layout::interleaved) {
      const S* from = address<S>(maps, tile.n, c, tile.y + r, tile.x);
      if (sizeof(S) == sizeof(A)) {
        transpose<A>(reinterpret_cast<const A*>(from), maps.stride_w, tile.columns, channels, to, plane_pitch);
      } else {
        if (maps.stride_w == channels)
          widen_run(from, int64_t(tile.columns) * channels, scratch);
        else
          for (int i = 0; i < tile.columns; ++i) widen_run(from + i * maps.stride_w, channels, scratch + i * channels);
        transpose<A>(scratch, channels, tile.columns, channels, to, plane_pitch);
      }
    } else {
      for (int k = 0; k < channels; ++k) {
        const S* from = address<S>(maps, tile.n, c + k, tile.y + r, tile.x);
        for (int i = 0; i < tile.columns; ++i) to[k * plane_pitch + i] = load_one(from + i * maps.stride_w);
      }
    }
    for (int k = 0; k < channels; ++k)
      for (int i = tile.columns; i < tile.pitch; ++i) to[k * plane_pitch + i] = 0;
  }
}

// The reverse; lanes between columns and pitch are not written. Channels of a tensor for which streams_runs holds can
// be streamed, or all channels where streams_pixels does; the scratch then has to hold all of the tile.
template <class S>
static void unstage(const Maps& maps, const Tile& tile, int64_t c, int channels, const arithmetic<S>* planes,
                    int64_t plane_pitch, arithmetic<S>* scratch, bool streaming = false) {
  using A = arithmetic<S>;
  const Layout layout = layout_of(maps);
  if (layout == Layout::planar) {
    const Runs runs = runs_of(maps, tile);
    for (int k = 0; k < channels; ++k)
      for (int run = 0; run < runs.count; ++run)
        narrow_run(planes + k * plane_pitch + run * tile.pitch, runs.length,
                   address<S>(maps, tile.n, c + k, tile.y + run, tile.x), streaming);
    return;
  }
  if (streaming) {
    const int row = tile.columns * channels;
    for (int r = 0; r < tile.rows; ++r)
      transpose<A>(planes + r * tile.pitch, plane_pitch, channels, tile.columns, scratch + r * row, channels);
    S* to = address<S>(maps, tile.n, c, tile.y, tile.x);
    for (int i = 0; i < tile.rows * row; i += lanes<A>::count) stream(to + i, load(scratch + i));
    return;
  }
  for (int r = 0; r < tile.rows; ++r) {
    const A* from = planes + r * tile.pitch;
    if (layout == Layout::interleaved) {
      S* to = address<S>(maps, tile.n, c, tile.y + r, tile.x);
      if (sizeof(S) == sizeof(A)) {
        transpose<A>(from, plane_pitch, channels, tile.columns, reinterpret_cast<A*>(to), maps.stride_w);
      } else {
        transpose<A>(from, plane_pitch, channels, tile.columns, scratch, channels);
        if (maps.stride_w == channels)
          narrow_run(scratch, int64_t(tile.columns) * channels, to);
        else
          for (int i = 0; i < tile.columns; ++i) narrow_run(scratch + i * channels, channels, to + i * maps.stride_w);
      }
    } else {
      for (int k = 0; k < channels; ++k) {
        S* to = address<S>(maps, tile.n, c + k, tile.y + r, tile.x);
        for (int i = 0; i < tile.columns; ++i) store_one(to + i * maps.stride_w, from[k * plane_pitch + i]);
      }
    }
  }
}

}  // namespace LM_ISA
}  // namespace lmdis
