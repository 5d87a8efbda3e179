// What every task of tps_warp shares: the splines of a call as the vector code reads them, and the tiles.
#pragma once

#include "../tps_warp.h"
#include "bilinear.h"
#include "thin_plate.h"
#include "tps_warp.h"

namespace lmdis {
namespace LM_ISA {

// The splines of a call as the vector code reads them, and tables along a row of the output.
template <class T>
struct PreparedWarp {
  TpsWarp call;
  T *frame_x, *base_x;                // of the output's columns
  T *centers_x, *centers_y, *scaled;  // see Spline
  T *linear, *before;
  SamplerAxis<T> along_x, along_y;

  explicit PreparedWarp(const TpsWarp& of) : call(of) {
    Carver<T> carver{static_cast<char*>(call.workspace)};
    const int64_t sets = call.shared ? 1 : images();
    frame_x = carver.take(call.out.w + 64), base_x = carver.take(call.out.w + 64);
    centers_x = carver.take(sets * call.points), centers_y = carver.take(sets * call.points);
    scaled = carver.take(images() * call.points * 2);
    linear = carver.take(images() * 6), before = carver.take(images() * 6);
    along_x = axis_of(call.image.w), along_y = axis_of(call.image.h);
    for (int64_t x = 0; x < call.out.w + 64; ++x) {  // vectors reach beyond the row
      const int64_t inside = x < call.out.w ? x : call.out.w - 1;
      frame_x[x] = T(pixel_centre(inside, call.out.w, call.align_corners));
      base_x[x] = T(base_position(inside, call.out.w, call.image.w, call.align_corners));
    }
    const T* centers = static_cast<const T*>(call.centers);
    for (int64_t i = 0; i < sets * call.points; ++i) centers_x[i] = centers[2 * i], centers_y[i] = centers[2 * i + 1];
    for (int64_t n = 0; n < images(); ++n) prepare_image(n);
  }

  int64_t images() const { return call.image.n; }
  // Whether all images have the same kernels.
  bool common() const { return call.shared && call.before == nullptr; }
  int at_once(int64_t left) const { return common() ? images_at_once(left) : 1; }

  // Images [n, n + group) of which group was made by at_once().
  Spline<T> spline(int64_t n, int group) const {
    const int64_t set = call.shared ? 0 : n * call.points;
    return {call.points,
            centers_x + set,
            centers_y + set,
            scaled + n * call.points * 2,
            group,
            linear + n * 6,
            call.before ? before + n * 6 : nullptr};
  }
  // One image by itself.
  Spline<T> spline(int64_t n) const {
    const Group group = group_of(n);
    Spline<T> found = spline(n, group.size);
    found.scaled = scaled + group.first * call.points * 2 + (n - group.first);
    return found;
  }
  const T* weights(int64_t n) const { return static_cast<const T*>(call.weights) + n * call.points * 2; }

  Piece<T> piece(int64_t y, int64_t x, int count) const {
    return {y,           x,
            count,       Tile::round_up(count, lanes<float>::count),
            frame_x + x, T(pixel_centre(y, call.out.h, call.align_corners))};
  }
  template <class A, bool slopes>
  bool places(const Piece<T>& piece, const T* move, Places<A>* to) const {
    const T base_y = T(base_position(piece.y, call.out.h, call.image.h, call.align_corners));
    const T* base = base_x + piece.x;
    return call.zeros ? find_places<T, A, true, slopes>(base, base_y, move, along_x, along_y, piece.padded, to)
                      : find_places<T, A, false, slopes>(base, base_y, move, along_x, along_y, piece.padded, to);
  }

 private:
  struct Group {
    int64_t first;
    int size;
  };
  Group group_of(int64_t n) const {
    if (!common()) return {n, 1};
    int64_t first = n / most_images * most_images;
    int size = at_once(images() - first);
    while (first + size <= n) first += size, size = at_once(images() - first);
    return {first, size};
  }
  SamplerAxis<T> axis_of(int64_t pixels) const {
    return {T(pixels - 1), T(pixels_per_unit(pixels, call.align_corners))};
  }
  static AffineMap map_at(const T* m) { return {m[0], m[1], m[2], m[3], m[4], m[5]}; }
  static void write_map(const AffineMap& m, T* to) {
    const double all[] = {m.xx, m.xy, m.x0, m.yx, m.yy, m.y0};
    for (int k = 0; k < 6; ++k) to[k] = T(all[k]);
  }
  void prepare_image(int64_t n) const {
    AffineMap map = map_at(static_cast<const T*>(call.affine) + 6 * n);
    if (call.before) {
      const AffineMap first = map_at(static_cast<const T*>(call.before) + 6 * n);
      write_map(first, before + 6 * n);
      map = compose(map, first);
    }
    write_map(displacement_of(map), linear + 6 * n);
    const Group group = group_of(n);
    T* to = scaled + group.first * call.points * 2 + (n - group.first);
    for (int64_t i = 0; i < 2 * call.points; ++i) to[i * group.size] = weights(n)[i] * (Logarithm<T>::unit / 2);
  }
};

// How an output image is cut into tiles, by sizes alone: results do not depend on threads.
struct TileCut {
  int columns, pitch, rows;  // of a tile; its kernels have rows of `pitch`
  int64_t across, down;      // tiles

  template <class T>
  LM_FUNCTION TileCut make(const TpsWarp& call, int pixels) {
    constexpr int V = lanes<float>::count;
    constexpr int64_t most_bytes = 1 << 20;  // of kernels
    const int64_t room = most_bytes / (int64_t(sizeof(T)) * (call.points > 0 ? call.points : 1));
    const int64_t widest = room < V ? V : room > piece_pixels ? int64_t(piece_pixels) : room / V * V;
    TileCut cut;
    cut.across = (call.out.w + widest - 1) / widest;
    const int64_t part = (call.out.w + cut.across - 1) / cut.across;
    cut.pitch = Tile::round_up(int(part), V);
    cut.columns = cut.across == 1 ? int(call.out.w) : cut.pitch;
    cut.across = (call.out.w + cut.columns - 1) / cut.columns;
    const int64_t rows = (pixels < room ? pixels : room) / cut.pitch;
    cut.rows = int(rows < 1 ? 1 : rows > call.out.h ? call.out.h : rows);
    cut.down = (call.out.h + cut.rows - 1) / cut.rows;
    return cut;
  }
};

// A tile's pieces: visit(piece, row of the tile).
template <class T, class Visit>
LM_FUNCTION void over_rows(const PreparedWarp<T>& warp, const TileCut& cut, int64_t down, int64_t across, Visit visit) {
  const int64_t y = down * cut.rows, x = across * cut.columns, left = warp.call.out.w - x;
  const int count = int(left < cut.columns ? left : cut.columns);
  for (int r = 0; r < cut.rows && y + r < warp.call.out.h; ++r) visit(warp.piece(y + r, x, count), r);
}

}  // namespace LM_ISA
}  // namespace lmdis
