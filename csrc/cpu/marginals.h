// Sums of a tile along each axis.
#pragma once

#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// R rows from row r on; see below.
template <class A, int R, bool sums, bool firsts, class Weight>
LM_FUNCTION void add_rows(int r0, int width, Weight weight, const A* u, A* columns, A* row_sums, A* row_firsts) {
  const int V = lanes<A>::count;
  vec<A> sum[R] = {}, first[R] = {};
  for (int x = 0; x < width; x += V) {
    vec<A> column = load(columns + x);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const vec<A> w = weight(r0 + r, x);
      column += w;
      if (sums) sum[r] += w;
      if (firsts) first[r] += w * load(u + x);
    }
    store(columns + x, column);
  }
  A found[R];
  if (sums) {
    sum_lanes<A>(sum, found);
    for (int r = 0; r < R; ++r) row_sums[r0 + r] += found[r];
  }
  if (firsts) {
    sum_lanes<A>(first, found);
    for (int r = 0; r < R; ++r) row_firsts[r0 + r] += found[r];
  }
}

// columns[x] += sum_y w, row_sums[y] += sum_x w if `sums`, and row_firsts[y] += sum_x w u[x] if `firsts`, where
// weight(y, x) gives the vectors w of `rows` rows; columns and u are whole vectors.
template <class A, bool sums, bool firsts, class Weight>
LM_FUNCTION void add_marginals(int rows, int width, Weight weight, const A* u, A* columns, A* row_sums, A* row_firsts) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) add_rows<A, 4, sums, firsts>(r, width, weight, u, columns, row_sums, row_firsts);
  if (r + 2 <= rows) {
    add_rows<A, 2, sums, firsts>(r, width, weight, u, columns, row_sums, row_firsts);
    r += 2;
  }
  if (r < rows) add_rows<A, 1, sums, firsts>(r, width, weight, u, columns, row_sums, row_firsts);
}

// The same of R rows of P planes of a tile, w being the product of `values` and of `factors`, which all planes share:
// it is not rounded before it is added where there are fused multiply-adds.
template <class A, int R, int P>
LM_FUNCTION void add_products(const A* values, int64_t plane, const A* factors, int pitch, int width, A* columns,
                              int64_t column_plane, A* row_sums, int64_t row_plane) {
  const int V = lanes<A>::count;
  vec<A> sum[P][R] = {};
  for (int x = 0; x < width; x += V) {
    vec<A> factor[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) factor[r] = load(factors + r * pitch + x);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      vec<A> column = load(columns + p * column_plane + x);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const vec<A> value = load(values + p * plane + r * pitch + x);
        column += value * factor[r];
        sum[p][r] += value * factor[r];
      }
      store(columns + p * column_plane + x, column);
    }
  }
  for (int p = 0; p < P; ++p) {
    A found[R];
    sum_lanes<A>(sum[p], found);
    for (int r = 0; r < R; ++r) row_sums[p * row_plane + r] += found[r];
  }
}

// Of all rows and `count` planes.
template <class A>
static void add_products(const A* values, int64_t plane, int count, const A* factors, const Tile& tile, A* columns,
                         int64_t column_plane, A* row_sums, int64_t row_plane) {
  const auto rows = [ =, &tile ]<int R>(int r, constant<R>) __attribute__((always_inline)) {
    const auto planes = [ =, &tile ]<int P>(int p, constant<P>) __attribute__((always_inline)) {
      add_products<A, R, P>(values + p * plane + r * tile.pitch, plane, factors + r * tile.pitch, tile.pitch,
                            tile.pitch, columns + p * column_plane, column_plane, row_sums + p * row_plane + r,
                            row_plane);
    };
    int p = 0;
    for (; p + 2 <= count; p += 2) planes(p, constant<2>{});
    if (p < count) planes(p, constant<1>{});
  };
  int r = 0;
  for (; r + 4 <= tile.rows; r += 4) rows(r, constant<4>{});
  if (r + 2 <= tile.rows) rows(r, constant<2>{}), r += 2;
  if (r < tile.rows) rows(r, constant<1>{});
}

// The same of one plane of a tile, w being `values`, or values * factors where those are given.
template <class A>
static void add_marginals(const A* values, const A* factors, const A* u, const Tile& tile, A* columns, A* row_sums,
                          A* row_firsts) {
  const int pitch = tile.pitch;
  const auto add = [=](auto weight) __attribute__((always_inline)) {
    if (u)
      add_marginals<A, true, true>(tile.rows, pitch, weight, u, columns, row_sums, row_firsts);
    else
      add_marginals<A, true, false>(tile.rows, pitch, weight, u, columns, row_sums, row_firsts);
  };
  if (factors)
    add([=](int r, int x) __attribute__((always_inline)) {
      return rounded(load(values + r * pitch + x) * load(factors + r * pitch + x));
    });
  else
    add([=](int r, int x) __attribute__((always_inline)) { return load(values + r * pitch + x); });
}

}  // namespace LM_ISA
}  // namespace lmdis
