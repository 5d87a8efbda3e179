// Windows of 2 x 2 pixels on vectors: their maximum, their sum, one value for all four, and the maximum's gradient.
//
// A vector stands for so many channels of one window (interleaved), or for so many windows of a row (planar), whose
// even and odd columns are taken apart where they are loaded and put together where they are stored.
#pragma once

#include "resampling.h"
#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// The four pixels of windows, row by row.
template <class A>
struct Window {
  vec<A> at[4];
};

// Every second lane of a and b, one after the other, from `odd` on; and the reverse, by halves.
template <int odd, class V, int... j>
LM_FUNCTION V every_second(V a, V b, sequence<j...>) {
  using mask = decltype(a > b);
  return __builtin_shuffle(a, b, mask{(2 * j + odd)...});
}
template <int half, class V, int... j>
LM_FUNCTION V alternating(V a, V b, sequence<j...>) {
  using mask = decltype(a > b);
  constexpr int lanes = sizeof...(j);
  return __builtin_shuffle(a, b, mask{((j & 1 ? lanes : 0) + half * lanes / 2 + j / 2)...});
}

// Windows from p on: `count` channels or windows, at most a vector. `right` and `below` lead to a pixel's neighbours.
template <class S, bool interleaved>
LM_FUNCTION Window<arithmetic<S>> load_window(const S* p, int64_t right, int64_t below, int64_t count) {
  using A = arithmetic<S>;
  constexpr int V = lanes<A>::count;
  const numbers<V> all;
  Window<A> w;
#pragma GCC unroll 2
  for (int row = 0; row < 2; ++row) {
    const S* from = p + row * below;
    if (interleaved) {
      w.at[2 * row] = load_up_to(from, count), w.at[2 * row + 1] = load_up_to(from + right, count);
    } else {
      const vec<A> a = load_up_to(from, 2 * count);
      const vec<A> b = 2 * count > V ? load_up_to(from + V, 2 * count - V) : vec<A>{};
      w.at[2 * row] = every_second<0>(a, b, all), w.at[2 * row + 1] = every_second<1>(a, b, all);
    }
  }
  return w;
}
template <class S, bool interleaved>
LM_FUNCTION void store_window(S* p, int64_t right, int64_t below, const Window<arithmetic<S>>& w, int64_t count) {
  using A = arithmetic<S>;
  constexpr int V = lanes<A>::count;
  const numbers<V> all;
#pragma GCC unroll 2
  for (int row = 0; row < 2; ++row) {
    S* to = p + row * below;
    if (interleaved) {
      store_up_to(to, w.at[2 * row], count), store_up_to(to + right, w.at[2 * row + 1], count);
    } else {
      store_up_to(to, alternating<0>(w.at[2 * row], w.at[2 * row + 1], all), 2 * count);
      if (2 * count > V) store_up_to(to + V, alternating<1>(w.at[2 * row], w.at[2 * row + 1], all), 2 * count - V);
    }
  }
}

// Past the caches, for interleaved windows of whole vectors.
template <class S>
LM_FUNCTION void stream_window(S* p, int64_t right, int64_t below, const Window<arithmetic<S>>& w) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) stream(p + i / 2 * below + i % 2 * right, w.at[i]);
}

// Rows of windows, counted through all planes.
struct RowRange {
  int64_t first, last;
};

// Tasks are runs of rows of windows, cut by size alone: of about 4 K windows' values, or a row where that has more.
template <class S_>
struct WindowRows {
  using S = S_;
  using A = arithmetic<S>;
  HalvedMaps maps;
  int64_t planes, pitch, rows, columns, step;  // pitch: of values from pixel to pixel

  explicit WindowRows(const HalvedMaps& m) : maps(m) {
    planes = m.interleaved ? m.images : m.images * m.channels, pitch = m.interleaved ? m.channels : 1;
    rows = m.height / 2, columns = m.width / 2;
    const int64_t of_row = columns * pitch, fitting = of_row ? 4096 / of_row : 1;  // maps may have no window
    step = fitting > 1 ? fitting : 1;
  }
  int64_t tasks() const { return (planes * rows + step - 1) / step; }
  int64_t below() const { return maps.width * pitch; }

  RowRange rows_of(int64_t task) const {
    return {task * step, (task + 1) * step < planes * rows ? (task + 1) * step : planes * rows};
  }
  // visit(larger, halved, count) for the windows of so many rows: where they begin in either map, and how many values.
  template <bool interleaved, class Visit>
  __attribute__((always_inline)) void windows(RowRange range, Visit visit) const {
    const int V = lanes<A>::count;
    for (int64_t row = range.first; row < range.last; ++row) {
      const int64_t larger = (row / rows * maps.height + row % rows * 2) * below(), halved = row * columns * pitch;
      const int64_t runs = interleaved ? columns : 1, length = interleaved ? pitch : columns;
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t from = larger + run * 2 * length, to = halved + run * length;
        int64_t i = 0;
        for (; i + V <= length; i += V) visit(from + (interleaved ? i : 2 * i), to + i, V);
        if (i < length) visit(from + (interleaved ? i : 2 * i), to + i, length - i);
      }
    }
  }
  // What no window of the rows holds, of an odd last column or row, becomes 0.
  void clear_rest(RowRange range, S* larger) const {
    for (int64_t row = range.first; row < range.last; ++row) {
      S* at = larger + (row / rows * maps.height + row % rows * 2) * below();
      if (maps.width % 2)
        for (int64_t r = 1; r <= 2; ++r) memset(at + r * below() - pitch, 0, size_t(pitch) * sizeof(S));
      if (maps.height % 2 && row % rows + 1 == rows) memset(at + 2 * below(), 0, size_t(below()) * sizeof(S));
    }
  }
};

// Whether a pixel takes the place of the maximum of those before it: as torch decides, so that the last NaN stays.
template <class V>
LM_FUNCTION auto exceeds(V value, V most) {
  return (value > most) | (value != value);
}

// visit(window of x, where it begins, where its pixel of the halved maps is, how many) for the windows of so many rows.
template <bool interleaved, class S, class Visit>
LM_FUNCTION void each_window(const WindowRows<S>& rows, RowRange range, const S* x, Visit visit) {
  const int64_t right = rows.pitch, below = rows.below();
  rows.template windows<interleaved>(
      range, [=](int64_t at, int64_t halved, int64_t count) __attribute__((always_inline)) {
        visit(load_window<S, interleaved>(x + at, right, below, count), at, halved, count);
      });
}

// out = maximum of each window.
template <bool interleaved, class S>
static void pool_windows(const WindowRows<S>& rows, RowRange range, const S* x, S* out) {
  using A = arithmetic<S>;
  each_window<interleaved>(
      rows, range, x, [=](const Window<A>& w, int64_t, int64_t halved, int64_t count) __attribute__((always_inline)) {
        vec<A> most = w.at[0];
#pragma GCC unroll 3
        for (int i = 1; i < 4; ++i) most = exceeds(w.at[i], most) ? w.at[i] : most;
        store_up_to(out + halved, most, count);
      });
}

// grad_x = the gradient of each window at its maximum, 0 at the other pixels; plus `kept` where that is given. It may
// be `kept` itself.
template <bool interleaved, bool with_kept, class S>
static void spread_to_maxima(const WindowRows<S>& rows, RowRange range, const S* x, const S* grad, const S* kept,
                             S* grad_x) {
  using A = arithmetic<S>;
  const int64_t right = rows.pitch, below = rows.below();
  each_window<interleaved>(
      rows, range,
      x, [=](const Window<A>& w, int64_t at, int64_t halved, int64_t count) __attribute__((always_inline)) {
        const vec<A> g = load_up_to(grad + halved, count);
        vec<A> most = w.at[0];
        ivec<A> replaces[4] = {};  // from the second pixel on
#pragma GCC unroll 3
        for (int i = 1; i < 4; ++i) {
          replaces[i] = exceeds(w.at[i], most);
          most = replaces[i] ? w.at[i] : most;
        }
        // Of those that replaced the maximum before them the last one stays.
        Window<A> found;
        ivec<A> later = {};
#pragma GCC unroll 3
        for (int i = 3; i > 0; --i) {
          found.at[i] = (vec<A>)((ivec<A>)g & replaces[i] & ~later);
          later |= replaces[i];
        }
        found.at[0] = (vec<A>)((ivec<A>)g & ~later);
        if (with_kept) {
          const Window<A> before = load_window<S, interleaved>(kept + at, right, below, count);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) found.at[i] += before.at[i];
        }
        store_window<S, interleaved>(grad_x + at, right, below, found, count);
      });
}

// Whether larger maps at `out` are streamed: they are interleaved, of whole vectors, and of windows that end where
// lines do, so that lines are whole as soon as a window is, and they come from memory when they are read next.
template <class S>
LM_FUNCTION bool streams_windows(const HalvedMaps& maps, const S* out) {
  const int64_t vector = lanes<arithmetic<S>>::count, least = 2 << 20;
  const int64_t bytes = maps.images * maps.channels * maps.height * maps.width * int64_t(sizeof(S));
  return LM_BYTES >= 32 && maps.interleaved && maps.channels % vector == 0 &&
         2 * maps.channels * int64_t(sizeof(S)) % 64 == 0 && maps.width % 2 == 0 &&
         reinterpret_cast<uintptr_t>(out) % 64 == 0 && bytes >= least;
}

// out = skip plus each of x four times; out may be skip itself. Streamed only where streams_windows holds.
template <bool interleaved, bool streaming, class S>
static void add_to_windows(const WindowRows<S>& rows, RowRange range, const S* x, const S* skip, S* out) {
  using A = arithmetic<S>;
  const int64_t right = rows.pitch, below = rows.below();
  each_window<interleaved>(
      rows, range, skip, [=](Window<A> w, int64_t at, int64_t halved, int64_t count) __attribute__((always_inline)) {
        const vec<A> value = load_up_to(x + halved, count);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) w.at[i] += value;
        if (streaming)
          stream_window<S>(out + at, right, below, w);
        else
          store_window<S, interleaved>(out + at, right, below, w, count);
      });
}

// Each of a few rows' pixels, which begin at x, four times into the windows of out.
template <bool interleaved, class S>
static void copy_to_windows(const WindowRows<S>& rows, RowRange range, const S* x, S* out) {
  using A = arithmetic<S>;
  const int64_t right = rows.pitch, below = rows.below(), before = range.first * rows.columns * rows.pitch;
  rows.template windows<interleaved>(
      range, [=](int64_t at, int64_t halved, int64_t count) __attribute__((always_inline)) {
        const vec<A> value = load_up_to(x + (halved - before), count);
        store_window<S, interleaved>(out + at, right, below, Window<A>{{value, value, value, value}}, count);
      });
}

// sums = the sum of each window.
template <bool interleaved, class S>
static void sum_windows(const WindowRows<S>& rows, RowRange range, const S* x, S* sums) {
  using A = arithmetic<S>;
  each_window<interleaved>(
      rows, range, x, [=](const Window<A>& w, int64_t, int64_t halved, int64_t count) __attribute__((always_inline)) {
        store_up_to(sums + halved, (w.at[0] + w.at[1]) + (w.at[2] + w.at[3]), count);
      });
}

}  // namespace LM_ISA
}  // namespace lmdis
