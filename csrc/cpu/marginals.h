// Sums of a tile along each axis.
#pragma once

#include "tile.h"

namespace lmdis {
namespace LM_ISA {

template <class A, int R>
LM_FUNCTION void add_rows(const A* q, const A* inverse, const A* u, int pitch, int width, A* columns, A* row_sums,
                          A* row_firsts) {
  const int V = lanes<A>::count;
  vec<A> sums[R] = {}, firsts[R] = {};
  for (int x = 0; x < width; x += V) {
    vec<A> column = load(columns + x);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const vec<A> e = load(q + r * pitch + x);
      const vec<A> weight = inverse ? rounded(e * load(inverse + r * pitch + x)) : e;
      column += weight;
      sums[r] += weight;
      if (u) firsts[r] += weight * load(u + x);
    }
    store(columns + x, column);
  }
  A found[R];
  sum_lanes<A>(sums, found);
  for (int r = 0; r < R; ++r) row_sums[r] += found[r];
  if (u) {
    sum_lanes<A>(firsts, found);
    for (int r = 0; r < R; ++r) row_firsts[r] += found[r];
  }
}

// columns[x] += sum_y w, row_sums[y] += sum_x w and, where `u` is given, row_firsts[y] += sum_x w u[x] of one plane of
// a tile, w being `values`, or values * factors where those are given.
template <class A>
static void add_marginals(const A* values, const A* factors, const A* u, const Tile& tile, A* columns, A* row_sums,
                          A* row_firsts) {
  const int pitch = tile.pitch;
  for (int r = 0; r < tile.rows;) {
    const A *from = values + r * pitch, *by = factors ? factors + r * pitch : nullptr;
    const int left = tile.rows - r;
    if (left >= 4)
      add_rows<A, 4>(from, by, u, pitch, pitch, columns, row_sums + r, row_firsts + r);
    else if (left >= 2)
      add_rows<A, 2>(from, by, u, pitch, pitch, columns, row_sums + r, row_firsts + r);
    else
      add_rows<A, 1>(from, by, u, pitch, pitch, columns, row_sums + r, row_firsts + r);
    r += left >= 4 ? 4 : left >= 2 ? 2 : 1;
  }
}

}  // namespace LM_ISA
}  // namespace lmdis
