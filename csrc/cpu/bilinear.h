// Bilinear reading of an image at a piece of a row of positions, its slopes, and its adjoint.
//
// In three steps over buffers of one piece: places (vectors), collection of the neighbours' values (scalar loads of
// pairs, which cost less than the processors' gathers), blending (vectors).
#pragma once

#include "thin_plate.h"
#include "tile.h"

namespace lmdis {
namespace LM_ISA {

// Corners are numbered 2 (lower row) + (right column). Edges are repeated: `right` and `below` are 0 or 1 pixels.
template <class A>
struct Places {
  int32_t x[piece_pixels], right[piece_pixels], y[piece_pixels], below[piece_pixels];
  A weight[4][piece_pixels];                             // of the corners
  A along_x[4][piece_pixels], along_y[4][piece_pixels];  // the weights' derivatives by g; backward only
};

// How positions are found along one axis.
template <class T>
struct SamplerAxis {
  T last;   // pixel
  T scale;  // pixels per unit of the frame
};

template <class T>
struct Neighbours {
  vec<T> first, step;         // pixel, and 0 or 1 to the other one
  vec<T> weight[2], rise[2];  // of both pixels, and its derivative by the position
};

template <class T>
LM_FUNCTION vec<T> whole(vec<T> v) {  // towards zero
  typedef typename short_vector<int32_t, lanes<T>::count>::type integers;
  return __builtin_convertvector(__builtin_convertvector(v, integers), vec<T>);
}

// A position that is not a number keeps its weights from being numbers, and has pixels inside the image all the same.
template <class T, bool zeros>
LM_FUNCTION Neighbours<T> neighbours(vec<T> position, T last) {
  const vec<T> zero{}, one = zero + T(1), end = splat(last);
  Neighbours<T> found;
  if constexpr (zeros) {
    const vec<T> near = minimum(maximum(position, zero - T(2)), end + T(2));
    vec<T> lower = whole<T>(near);
    lower = lower > near ? lower - one : lower;
    const vec<T> fraction = (near - lower) + (position - position);
    const vec<T> upper = lower + one;
    const vec<T> counts[2] = {lower >= zero ? (lower <= end ? one : zero) : zero,
                              upper >= zero ? (upper <= end ? one : zero) : zero};
    found.first = minimum(maximum(lower, zero), end);
    found.step = minimum(maximum(upper, zero), end) - found.first;
    found.weight[0] = (one - fraction) * counts[0], found.weight[1] = fraction * counts[1];
    found.rise[0] = -counts[0], found.rise[1] = counts[1];
  } else {
    const vec<T> clamped = minimum(end, maximum(zero, position));
    found.first = whole<T>(maximum(clamped, zero));
    const vec<T> fraction = clamped - found.first;
    found.step = minimum(found.first + one, end) - found.first;
    found.weight[0] = one - fraction, found.weight[1] = fraction;
    const vec<T> inside = position >= zero ? (position <= end ? one : zero) : zero;
    found.rise[0] = -inside, found.rise[1] = inside;
  }
  return found;
}

// Stores lanes of T as another type.
template <class To, class T>
LM_FUNCTION void store_as(To* p, vec<T> v) {
  typedef typename short_vector<To, lanes<T>::count>::type other;
  const other o = __builtin_convertvector(v, other);
  memcpy(p, &o, sizeof(o));
}

// The places of a piece displaced by move[axis * piece_pixels + at]; whether any has no neighbour on its right.
template <class T, class A, bool zeros, bool slopes>
static bool find_places(const T* base_x, T base_y, const T* move, const SamplerAxis<T>& along_x,
                        const SamplerAxis<T>& along_y, int padded, Places<A>* to) {
  vec<T> least = splat(T(1));
  for (int at = 0; at < padded; at += lanes<T>::count) {
    const auto x = neighbours<T, zeros>(load(base_x + at) + load(move + at) * along_x.scale, along_x.last);
    const auto y = neighbours<T, zeros>(load(move + piece_pixels + at) * along_y.scale + base_y, along_y.last);
    store_as<int32_t, T>(to->x + at, x.first);
    store_as<int32_t, T>(to->right + at, x.step);
    store_as<int32_t, T>(to->y + at, y.first);
    store_as<int32_t, T>(to->below + at, y.step);
    least = minimum(least, x.step);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      store_as<A, T>(to->weight[k] + at, x.weight[k & 1] * y.weight[k >> 1]);
      if constexpr (slopes) {
        store_as<A, T>(to->along_x[k] + at, x.rise[k & 1] * along_x.scale * y.weight[k >> 1]);
        store_as<A, T>(to->along_y[k] + at, x.weight[k & 1] * (y.rise[k >> 1] * along_y.scale));
      }
    }
  }
  return sum_lanes<T>(least) < T(lanes<T>::count);
}

// Asks for the lines of a few channels that a piece will read: images that are visited in turn leave the caches, and
// their short rows are too short for the processors' own prefetching.
template <class S>
LM_FUNCTION void prefetch(const Maps& image, int64_t n, const Places<arithmetic<S>>& places, int count) {
  const int64_t channels = image.stride_c == 1 ? 1 : image.c < 4 ? image.c : 4;
  const S* base = address<S>(image, n, 0, 0, 0);
  for (int i = 0; i < count; i += 16) {
    const S* at = base + places.y[i] * image.stride_h + places.x[i] * image.stride_w;
    for (int64_t c = 0; c < channels; ++c, at += image.stride_c) {
      __builtin_prefetch(at);
      __builtin_prefetch(at + places.below[i] * image.stride_h);
    }
  }
}

// ---- collection ----------------------------------------------------------------------------------------------------

// Channels that are collected at once; pairs[(2 * channel + row) * 2 * piece_pixels + 2 * pixel + column].
constexpr int most_channels = 4, pairs_pitch = 2 * piece_pixels;

// Left and right neighbour lie side by side: one load for both. A pixel on the edge is repeated afterwards.
template <class S, int C>
LM_FUNCTION void collect_pairs(const Maps& image, const S* plane, const Places<arithmetic<S>>& p, int count, bool edges,
                               S* pairs) {
  const int32_t last = int32_t(image.w - 2);
  const int64_t stride_c = image.stride_c, stride_h = image.stride_h;
  for (int i = 0; i < count; ++i) {
    const S* top = plane + p.y[i] * stride_h + (p.x[i] < last ? p.x[i] : last);
    const S* bottom = top + p.below[i] * stride_h;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      memcpy(pairs + 2 * c * pairs_pitch + 2 * i, top + c * stride_c, 2 * sizeof(S));
      memcpy(pairs + (2 * c + 1) * pairs_pitch + 2 * i, bottom + c * stride_c, 2 * sizeof(S));
    }
  }
  for (int i = 0; edges && i < count; ++i)
    if (!p.right[i])
      for (int k = 0; k < 2 * C; ++k) {
        S* pair = pairs + k * pairs_pitch + 2 * i;
        if (p.x[i] == 0)
          pair[1] = pair[0];
        else
          pair[0] = pair[1];
      }
}

// Any layout.
template <class S, int C>
LM_FUNCTION void collect_strided(const Maps& image, const S* plane, const Places<arithmetic<S>>& p, int count,
                                 S* pairs) {
  const int64_t stride_c = image.stride_c, stride_h = image.stride_h, stride_w = image.stride_w;
  for (int i = 0; i < count; ++i) {
    const S* top = plane + p.y[i] * stride_h + p.x[i] * stride_w;
    const int64_t right = p.right[i] * stride_w, below = p.below[i] * stride_h;
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const S* at = top + c * stride_c;
      S *upper = pairs + 2 * c * pairs_pitch + 2 * i, *lower = upper + pairs_pitch;
      upper[0] = at[0], upper[1] = at[right];
      lower[0] = at[below], lower[1] = at[below + right];
    }
  }
}

template <class S, int C>
LM_FUNCTION void collect(const Maps& image, int64_t n, int64_t c, const Places<arithmetic<S>>& places, int count,
                         bool edges, S* pairs) {
  const S* plane = address<S>(image, n, c, 0, 0);
  if (image.stride_w == 1 && image.w >= 2)
    collect_pairs<S, C>(image, plane, places, count, edges, pairs);
  else
    collect_strided<S, C>(image, plane, places, count, pairs);
}

// A vector of left values and one of right values from interleaved pairs.
template <class V, int... j>
LM_FUNCTION void separate(V a, V b, V* left, V* right, sequence<j...>) {
  using mask = decltype(a > b);
  *left = __builtin_shuffle(a, b, mask{(2 * j)...});
  *right = __builtin_shuffle(a, b, mask{(2 * j + 1)...});
}
template <class S>
LM_FUNCTION void load_pairs(const S* p, vec<S>* left, vec<S>* right) {
  separate(load(p), load(p + lanes<S>::count), left, right, numbers<lanes<S>::count>{});
}
LM_FUNCTION uvec load_bits(const void* p) {
  uvec bits;
  memcpy(&bits, p, sizeof(bits));
  return bits;
}
LM_FUNCTION void load_pairs(const bf16* p, vec<float>* left, vec<float>* right) {
  const uvec bits = load_bits(p);
  *left = (vec<float>)(bits << 16), *right = (vec<float>)(bits & 0xffff0000);
}
LM_FUNCTION void load_pairs(const f16* p, vec<float>* left, vec<float>* right) {
  const uvec bits = load_bits(p);
  *left = widen(__builtin_convertvector(bits & 0xffff, lanes<float>::half), f16{});
  *right = widen(__builtin_convertvector(bits >> 16, lanes<float>::half), f16{});
}

// ---- forward -------------------------------------------------------------------------------------------------------

template <class S, int C>
static void blend(const S* pairs, const Places<arithmetic<S>>& places, int count, S* out, int64_t stride_c) {
  using A = arithmetic<S>;
  const int V = lanes<A>::count;
  for (int at = 0; at < count; at += V) {
    vec<A> weight[4];
    for (int k = 0; k < 4; ++k) weight[k] = load(places.weight[k] + at);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      vec<A> corner[4];
      load_pairs(pairs + 2 * c * pairs_pitch + 2 * at, &corner[0], &corner[1]);
      load_pairs(pairs + (2 * c + 1) * pairs_pitch + 2 * at, &corner[2], &corner[3]);
      const vec<A> value =
          corner[0] * weight[0] + corner[1] * weight[1] + (corner[2] * weight[2] + corner[3] * weight[3]);
      if (at + V <= count)
        store(out + c * stride_c + at, value);
      else
        store_some(out + c * stride_c + at, value, count - at);
    }
  }
}

// visit(c, constant<C>{}) for all channels in groups.
template <class Visit>
LM_FUNCTION void over_channels(int64_t channels, Visit visit) {
  int64_t c = 0;
  for (; channels - c > 4; c += 4) visit(c, constant<4>{});
  switch (channels - c) {
    case 1: return visit(c, constant<1>{});
    case 2: return visit(c, constant<2>{});
    case 3: return visit(c, constant<3>{});
    default: return visit(c, constant<4>{});
  }
}

// Four channels of a pixel.
template <class A>
using quad = typename short_vector<A, 4>::type;

template <class A>
LM_FUNCTION quad<A> load_quad(const A* p) {
  quad<A> q;
  memcpy(&q, p, sizeof(q));
  return q;
}
template <class A>
LM_FUNCTION void store_quad(A* p, quad<A> q) {
  memcpy(p, &q, sizeof(q));
}
#if LM_BYTES == 16
LM_FUNCTION quad<float> load_quad(const bf16* p) { return load(p); }
LM_FUNCTION quad<float> load_quad(const f16* p) { return load(p); }
LM_FUNCTION void store_quad(bf16* p, quad<float> q) { store(p, q); }
LM_FUNCTION void store_quad(f16* p, quad<float> q) { store(p, q); }
#else
LM_FUNCTION quad<float> load_quad(const bf16* p) {
  const __m128i bits = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return (quad<float>)_mm_slli_epi32(bits, 16);
}
LM_FUNCTION quad<float> load_quad(const f16* p) {
  return (quad<float>)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
LM_FUNCTION void store_quad(bf16* p, quad<float> q) {
  typedef short_vector<uint32_t, 4>::type words;
  const words bits = (words)q, rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const words kept = q == q ? rounded : (bits | 0x400000);  // a NaN stays one
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi32((__m128i)(kept >> 16), __m128i{}));
}
LM_FUNCTION void store_quad(f16* p, quad<float> q) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                   _mm_cvtps_ph((__m128)q, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#endif

// One pixel whose channels lie side by side.
template <class S>
struct PixelBlend {
  using A = arithmetic<S>;
  const S* corner[4];
  A weight[4];

  __attribute__((always_inline)) quad<A> four(int64_t c) const {
    quad<A> sum = load_quad(corner[0] + c) * weight[0];
    for (int k = 1; k < 4; ++k) sum += load_quad(corner[k] + c) * weight[k];
    return sum;
  }
  __attribute__((always_inline)) A one(int64_t c) const {
    A sum = load_one(corner[0] + c) * weight[0];
    for (int k = 1; k < 4; ++k) sum += load_one(corner[k] + c) * weight[k];
    return sum;
  }
  __attribute__((always_inline)) vec<A> many(int64_t c) const {
    vec<A> sum = load(corner[0] + c) * weight[0];
    for (int k = 1; k < 4; ++k) sum += load(corner[k] + c) * weight[k];
    return sum;
  }
  // All channels, in blocks of which the last one overlaps the one before it.
  __attribute__((always_inline)) void all(int64_t channels, S* to) const {
    constexpr int V = lanes<A>::count;
    if (channels >= V)
      for (int64_t c = 0; c < channels; c += V) {
        const int64_t at = c + V <= channels ? c : channels - V;
        store(to + at, many(at));
      }
    else if (channels >= 4)
      for (int64_t c = 0; c < channels; c += 4) {
        const int64_t at = c + 4 <= channels ? c : channels - 4;
        store_quad(to + at, four(at));
      }
    else
      for (int64_t c = 0; c < channels; ++c) store_one(to + c, one(c));
  }
};

// Image and output both have the channels of a pixel side by side. Of fewer than four channels, four are read and
// written where that stays inside the image, and inside the piece, whose next pixel is written later.
template <class S>
static void blend_pixels(const Maps& image, int64_t n, const Places<arithmetic<S>>& places, int count, S* out) {
  const S* base = address<S>(image, n, 0, 0, 0);
  const S* end = address<S>(image, image.n - 1, image.c - 1, image.h - 1, image.w - 1) + 1;
  for (int i = 0; i < count; ++i, out += image.c) {
    const S* at = base + places.y[i] * image.stride_h + places.x[i] * image.stride_w;
    const int64_t right = places.right[i] * image.stride_w, below = places.below[i] * image.stride_h;
    const PixelBlend<S> pixel{{at, at + right, at + below, at + below + right},
                              {places.weight[0][i], places.weight[1][i], places.weight[2][i], places.weight[3][i]}};
    if (image.c < 4 && i + 1 < count && image.c * (count - i) >= 4 && pixel.corner[3] + 4 <= end)
      store_quad(out, pixel.four(0));
    else
      pixel.all(image.c, out);
  }
}

// ---- backward ------------------------------------------------------------------------------------------------------

// toward[k][at] = sum over channels of gradient times corner k, added to what is there unless it is the first group.
template <class S, int C>
static void project(const S* pairs, const arithmetic<S>* grads, int padded, bool first,
                    arithmetic<S> (*toward)[piece_pixels]) {
  using A = arithmetic<S>;
  for (int at = 0; at < padded; at += lanes<A>::count) {
    vec<A> sums[4] = {};
    for (int k = 0; k < 4 && !first; ++k) sums[k] = load(toward[k] + at);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const vec<A> grad = load(grads + c * piece_pixels + at);
      vec<A> corner[4];
      load_pairs(pairs + 2 * c * pairs_pitch + 2 * at, &corner[0], &corner[1]);
      load_pairs(pairs + (2 * c + 1) * pairs_pitch + 2 * at, &corner[2], &corner[3]);
      for (int k = 0; k < 4; ++k) sums[k] += grad * corner[k];
    }
    for (int k = 0; k < 4; ++k) store(toward[k] + at, sums[k]);
  }
}

// The gradient of g, of_g[axis * piece_pixels + at], 0 beyond the piece's pixels.
template <class A, class T>
static void slopes_of_places(const Places<A>& places, const A (*toward)[piece_pixels], int count, int padded, T* of_g) {
  for (int at = 0; at < padded; at += lanes<A>::count) {
    vec<A> x{}, y{};
    for (int k = 0; k < 4; ++k) {
      const vec<A> t = load(toward[k] + at);
      x += load(places.along_x[k] + at) * t;
      y += load(places.along_y[k] + at) * t;
    }
    store_as<T, A>(of_g + at, x);
    store_as<T, A>(of_g + piece_pixels + at, y);
  }
  for (int at = count; at < padded; ++at) of_g[at] = of_g[piece_pixels + at] = T(0);
}

// The planes of an image's gradient while they are summed.
template <class A>
struct Planes {
  A* data;
  int64_t stride_c, stride_h, stride_w;
};

// Each pixel's share goes to its four neighbours; grads[channel * piece_pixels + pixel].
template <class A, int C>
LM_FUNCTION void scatter(const Planes<A>& to, int64_t c0, const Places<A>& places, const A* grads, int count) {
  for (int i = 0; i < count; ++i) {
    A* at = to.data + c0 * to.stride_c + places.y[i] * to.stride_h + places.x[i] * to.stride_w;
    const int64_t right = places.right[i] * to.stride_w, below = places.below[i] * to.stride_h;
    const A weight[4] = {places.weight[0][i], places.weight[1][i], places.weight[2][i], places.weight[3][i]};
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c, at += to.stride_c) {
      const A grad = grads[c * piece_pixels + i];
      at[0] += weight[0] * grad;
      at[right] += weight[1] * grad;
      at[below] += weight[2] * grad;
      at[below + right] += weight[3] * grad;
    }
  }
}

}  // namespace LM_ISA
}  // namespace lmdis
