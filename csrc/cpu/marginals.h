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
