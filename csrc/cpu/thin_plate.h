// The thin-plate kernel r^2 log r and its sums over control points, for pieces of a row of pixels.
//
// Everywhere here the kernel is r2 L(r2), where L is a logarithm whose base suits the processor; the factor
// log(base) / 2 goes into the weights, and into the gradients of the weights at the end.
#pragma once

#include "../tps_warp.h"
#include "exponential.h"
#include "storage.h"

namespace lmdis {
namespace LM_ISA {

// Pixels of a row that are worked on at once: their buffers stay in the first-level cache.
constexpr int piece_pixels = 128;

// L(x) = log(x) / unit for normal positive x; absolute error of log below 1e-7 (float).
template <class T>
struct Logarithm;

template <>
struct Logarithm<double> {
  static constexpr double unit = 1;
  __attribute__((always_inline)) vec<double> operator()(vec<double> x) const { return log_positive(x); }
};

#if LM_X86 && LM_BYTES > 16
// log2(x) = exponent - log2(c) + log2(1 + (m c - 1)) with c near 1 / m, from a table that fits a register.
template <>
struct Logarithm<float> {
  static constexpr float unit = 0.693147181f;
#if LM_BYTES == 64
  vec<float> reciprocal = {0.969696999f, 0.914285719f, 0.864864886f, 0.820512831f, 0.780487776f, 0.744186044f,
                           0.711111128f, 0.680851042f, 0.653061211f, 0.627451003f, 0.603773594f, 0.581818163f,
                           0.561403513f, 0.542372882f, 0.524590135f, 0.507936537f};
  vec<float> offset = {0.0443940759f, 0.129283011f, 0.209453329f, 0.285402209f, 0.357552052f, 0.426264763f,
                       0.491853058f,  0.554588914f, 0.614709854f, 0.67242527f,  0.727920413f, 0.781359732f,
                       0.832889974f,  0.882643044f, 0.930737436f, 0.977279842f};
  __attribute__((always_inline)) vec<float> operator()(vec<float> x) const {
    const ivec<float> entry = (ivec<float>)x >> 19;  // only its four lowest bits count
    constexpr __mmask16 all = 0xffff;                // g++ 12 warns of the forms without a mask
    const vec<float> m = (vec<float>)_mm512_maskz_getmant_ps(all, (__m512)x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
    const vec<float> r = m * __builtin_shuffle(reciprocal, entry) - 1.f;
    const vec<float> whole = (vec<float>)_mm512_maskz_getexp_ps(all, (__m512)x) + __builtin_shuffle(offset, entry);
    vec<float> p = r * 0.481273353f - 0.72162205f;
    p = p * r + 1.4426949f;
    return p * r + whole;
  }
#else
  vec<float> reciprocal = {0.941176474f, 0.842105269f, 0.761904776f, 0.695652187f,
                           0.639999986f, 0.592592597f, 0.551724136f, 0.516129017f};
  vec<float> offset = {0.087462835f, 0.247927502f, 0.392317384f, 0.523561954f,
                       0.643856227f, 0.754887462f, 0.857981026f, 0.954196334f};
  __attribute__((always_inline)) vec<float> operator()(vec<float> x) const {
    const ivec<float> bits = (ivec<float>)x, entry = bits >> 20;  // only its three lowest bits count
    const vec<float> m = (vec<float>)((bits & 0x7fffff) | 0x3f800000);
    const vec<float> exponent = __builtin_convertvector((bits - 0x3f800000) >> 23, vec<float>);
    const vec<float> r = m * __builtin_shuffle(reciprocal, entry) - 1.f;
    const vec<float> whole = exponent + __builtin_shuffle(offset, entry);
    vec<float> p = r * -0.362052917f + 0.482143641f;
    p = p * r - 0.721345663f;
    p = p * r + 1.44269395f;
    return p * r + whole;
  }
#endif
};
#else
template <>
struct Logarithm<float> {
  static constexpr float unit = 1;
  __attribute__((always_inline)) vec<float> operator()(vec<float> x) const { return log_positive(x); }
};
#endif

// Added to r^2, so that its logarithm exists; it changes no distance that can be told from 0.
template <class T>
struct least_distance;
template <>
struct least_distance<float> {
  static constexpr float squared = 1e-30f;
};
template <>
struct least_distance<double> {
  static constexpr double squared = 1e-290;
};

// One image's spline, or those of several images with the same control points.
template <class T>
struct Spline {
  int64_t points;
  const T *centers_x, *centers_y;
  const T* scaled;  // weights times Logarithm::unit / 2: [points][axis][scaled_step], by image
  int64_t scaled_step;
  const T* linear;  // g(p) - p without the kernels, [image][6] in the order of AffineMap
  const T* before;  // [6], or null
};

// A piece of one row: where its pixels lie in the frame.
template <class T>
struct Piece {
  int64_t y, x;
  int count, padded;  // pixels, and the same in whole vectors
  const T* frame_x;   // of the piece's pixels
  T frame_y;
};

// The distances to the control points from a piece's pixels, moved by `before` or not; `down` holds
// (y - centre y)^2 of each point where the row has it in common.
template <class T, bool moved>
struct Distances {
  const Spline<T>& spline;
  const Piece<T>& piece;
  const T* down;

  __attribute__((always_inline)) static Distances make(const Spline<T>& spline, const Piece<T>& piece, T* down) {
    if constexpr (!moved)
      for (int64_t i = 0; i < spline.points; ++i) {
        const T d = piece.frame_y - spline.centers_y[i];
        down[i] = d * d + least_distance<T>::squared;
      }
    return {spline, piece, down};
  }
  __attribute__((always_inline)) vec<T> x(int at) const {
    const vec<T> p = load(piece.frame_x + at);
    const T* b = spline.before;
    if constexpr (moved) return p * b[0] + (b[1] * piece.frame_y + b[2]);
    return p;
  }
  __attribute__((always_inline)) vec<T> y(int at) const {
    const T* b = spline.before;
    if constexpr (moved) return load(piece.frame_x + at) * b[3] + (b[4] * piece.frame_y + b[5]);
    return splat(piece.frame_y);
  }
  __attribute__((always_inline)) vec<T> squared(vec<T> x, vec<T> y, int64_t point) const {
    const vec<T> dx = x - spline.centers_x[point];
    if constexpr (!moved) return dx * dx + down[point];
    const vec<T> dy = y - spline.centers_y[point];
    return dx * dx + (dy * dy + least_distance<T>::squared);
  }
};

// g(p) - p without the kernels, along an axis, for a vector of pixels.
template <class T>
LM_FUNCTION vec<T> linear_part(const T* linear, int axis, const Piece<T>& piece, int at) {
  const T* row = linear + 3 * axis;
  return load(piece.frame_x + at) * row[0] + (row[1] * piece.frame_y + row[2]);
}

// The displacement of U vectors of pixels, kernels computed on the way: to[axis * piece_pixels + at].
template <class T, bool moved, int U>
LM_FUNCTION void displace_directly(const Logarithm<T>& logarithm, const Distances<T, moved>& from, int at, T* to) {
  const int V = lanes<T>::count;
  const Spline<T>& s = from.spline;
  vec<T> x[U], y[U], sums[2][U];
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    x[u] = from.x(at + u * V), y[u] = from.y(at + u * V);
    sums[0][u] = linear_part(s.linear, 0, from.piece, at + u * V);
    sums[1][u] = linear_part(s.linear, 1, from.piece, at + u * V);
  }
  const T* weight = s.scaled;
  for (int64_t i = 0; i < s.points; ++i, weight += 2 * s.scaled_step)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const vec<T> r2 = from.squared(x[u], y[u], i), kernel = r2 * logarithm(r2);
      sums[0][u] += kernel * weight[0];
      sums[1][u] += kernel * weight[s.scaled_step];
    }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    store(to + at + u * V, sums[0][u]);
    store(to + piece_pixels + at + u * V, sums[1][u]);
  }
}

template <class T, bool moved>
static void displace_directly(const Spline<T>& spline, const Piece<T>& piece, T* down, T* to) {
  const int V = lanes<T>::count;
  constexpr int U = LM_BYTES >= 64 ? 2 : 1;
  const Logarithm<T> logarithm;
  const auto from = Distances<T, moved>::make(spline, piece, down);
  int at = 0;
  for (; at + U * V <= piece.padded; at += U * V) displace_directly<T, moved, U>(logarithm, from, at, to);
  for (; at < piece.padded; at += V) displace_directly<T, moved, 1>(logarithm, from, at, to);
}

// The kernels of a piece, kernels[i * pitch + at], and their logarithms if `logs` is not null.
template <class T, bool moved>
static void evaluate_kernels(const Spline<T>& spline, const Piece<T>& piece, T* down, int64_t pitch, T* kernels,
                             T* logs) {
  const int V = lanes<T>::count;
  const Logarithm<T> logarithm;
  const auto from = Distances<T, moved>::make(spline, piece, down);
  for (int at = 0; at < piece.padded; at += V) {
    const vec<T> x = from.x(at), y = from.y(at);
    for (int64_t i = 0; i < spline.points; ++i) {
      const vec<T> r2 = from.squared(x, y, i), log = logarithm(r2);
      store(kernels + i * pitch + at, r2 * log);
      if (logs) store(logs + i * pitch + at, log);
    }
  }
}

// Images that are displaced at once by the same kernels; as many sums as there are registers for.
constexpr int most_images = LM_BYTES >= 64 ? 4 : 2;
LM_FUNCTION int images_at_once(int64_t left) { return left >= most_images ? most_images : left >= 2 ? 2 : 1; }

// visit(constant<G>{}) for the number of images.
template <class Visit>
LM_FUNCTION void with_images(int images, Visit visit) {
  if constexpr (most_images >= 4)
    if (images == 4) return visit(constant<4>{});
  if (images == 2) return visit(constant<2>{});
  visit(constant<1>{});
}

template <class T, int G, int U>
LM_FUNCTION void displace_vectors(const Spline<T>& s, const Piece<T>& piece, const T* kernels, int64_t pitch, int at,
                                  T* to) {
  const int V = lanes<T>::count;
  vec<T> sums[2 * G][U];
#pragma GCC unroll 8
  for (int k = 0; k < 2 * G; ++k)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sums[k][u] = linear_part(s.linear + 6 * (k % G), k / G, piece, at + u * V);
  const T* weight = s.scaled;
  for (int64_t i = 0; i < s.points; ++i, kernels += pitch, weight += 2 * G)
#pragma GCC unroll 8
    for (int k = 0; k < 2 * G; ++k)
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sums[k][u] += load(kernels + at + u * V) * weight[k];
#pragma GCC unroll 8
  for (int k = 0; k < 2 * G; ++k)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) store(to + (2 * (k % G) + k / G) * piece_pixels + at + u * V, sums[k][u]);
}

// The displacements of a piece in G images: to[(2 * image + axis) * piece_pixels + at].
template <class T, int G>
static void displace_by_kernels(const Spline<T>& spline, const Piece<T>& piece, const T* kernels, int64_t pitch,
                                T* to) {
  const int V = lanes<T>::count;
  constexpr int U = G == 1 ? 4 : 2;
  int at = 0;
  for (; at + U * V <= piece.padded; at += U * V) displace_vectors<T, G, U>(spline, piece, kernels, pitch, at, to);
  for (; at < piece.padded; at += V) displace_vectors<T, G, 1>(spline, piece, kernels, pitch, at, to);
}

// ---- adjoint -------------------------------------------------------------------------------------------------------

// sums[image][i][axis] += kernel_i dg, by lane, for all images and points; dg[(2 * image + axis) * piece_pixels + at].
template <class T, int G, int points>
LM_FUNCTION void add_kernel_products(const T* kernels, int64_t pitch, const T* dg, int padded, T* sums,
                                     int64_t image_pitch) {
  const int V = lanes<T>::count;
  vec<T> s[points][2 * G];
#pragma GCC unroll 2
  for (int j = 0; j < points; ++j)
#pragma GCC unroll 8
    for (int k = 0; k < 2 * G; ++k) s[j][k] = load(sums + k / 2 * image_pitch + (2 * j + k % 2) * V);
  for (int at = 0; at < padded; at += V) {
    vec<T> kernel[points];
#pragma GCC unroll 2
    for (int j = 0; j < points; ++j) kernel[j] = load(kernels + j * pitch + at);
#pragma GCC unroll 8
    for (int k = 0; k < 2 * G; ++k) {
      const vec<T> g = load(dg + k * piece_pixels + at);
#pragma GCC unroll 2
      for (int j = 0; j < points; ++j) s[j][k] += kernel[j] * g;
    }
  }
#pragma GCC unroll 2
  for (int j = 0; j < points; ++j)
#pragma GCC unroll 8
    for (int k = 0; k < 2 * G; ++k) store(sums + k / 2 * image_pitch + (2 * j + k % 2) * V, s[j][k]);
}

template <class T, int G>
static void add_all_kernel_products(int64_t count, const T* kernels, int64_t pitch, const T* dg, int padded, T* sums,
                                    int64_t image_pitch) {
  const int V = lanes<T>::count;
  int64_t i = 0;
  for (; i + 2 <= count; i += 2)
    add_kernel_products<T, G, 2>(kernels + i * pitch, pitch, dg, padded, sums + 2 * i * V, image_pitch);
  if (i < count) add_kernel_products<T, G, 1>(kernels + i * pitch, pitch, dg, padded, sums + 2 * i * V, image_pitch);
}

// With e_i = (log r2_i + 1) (w_i . dg) and the legs e_i (q - c_i): sums[i][axis] += legs, by lane, and
// of_q[axis * piece_pixels + at] += legs. `weights` are those of the image, [points][axis].
template <class T, bool moved>
static void add_legs(const Spline<T>& spline, const Piece<T>& piece, const T* weights, const T* logs, int64_t pitch,
                     const T* dg, T* sums, T* of_q) {
  const int V = lanes<T>::count;
  const Distances<T, moved> from{spline, piece, nullptr};
  for (int64_t i = 0; i < spline.points; ++i) {
    vec<T> sum_x = load(sums + 2 * i * V), sum_y = load(sums + (2 * i + 1) * V);
    for (int at = 0; at < piece.padded; at += V) {
      const vec<T> pull = load(dg + at) * weights[2 * i] + load(dg + piece_pixels + at) * weights[2 * i + 1];
      const vec<T> e = pull * (load(logs + i * pitch + at) * Logarithm<T>::unit + T(1));
      const vec<T> x = e * (from.x(at) - spline.centers_x[i]), y = e * (from.y(at) - spline.centers_y[i]);
      sum_x += x, sum_y += y;
      if constexpr (moved) {
        store(of_q + at, load(of_q + at) + x);
        store(of_q + piece_pixels + at, load(of_q + piece_pixels + at) + y);
      }
    }
    store(sums + 2 * i * V, sum_x);
    store(sums + (2 * i + 1) * V, sum_y);
  }
}

// sums[axis][x, y, 1] += d (point, 1)^T, by lane, for points that `point(at, x, y)` makes.
template <class T, class Point>
LM_FUNCTION void add_outer(const T* d, int padded, T* sums, Point point) {
  const int V = lanes<T>::count;
  vec<T> s[6];
  for (int k = 0; k < 6; ++k) s[k] = load(sums + k * V);
  for (int at = 0; at < padded; at += V) {
    vec<T> x, y;
    point(at, &x, &y);
    for (int axis = 0; axis < 2; ++axis) {
      const vec<T> g = load(d + axis * piece_pixels + at);
      s[3 * axis] += g * x, s[3 * axis + 1] += g * y, s[3 * axis + 2] += g;
    }
  }
  for (int k = 0; k < 6; ++k) store(sums + k * V, s[k]);
}

}  // namespace LM_ISA
}  // namespace lmdis
