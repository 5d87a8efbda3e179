// heatmap_moments over the pixels of a channel, or over the marginals of its mean logits.
#pragma once

#include "channel_softmax.h"
#include "marginals.h"
#include "moments.h"

namespace lmdis {
namespace LM_ISA {

// A task is one channel of one image, or with interleaved channels all of them. Planes that fit a core's cache are one
// tile, read once; larger ones are read in tiles, as often as needed.
template <class S>
struct SpatialMoments {
  using A = arithmetic<S>;
  HeatmapMomentsBackward call;
  bool backward;
  int64_t at_once;  // channels of a task
  Cut cut;
  int padded_width;
  bool resident;  // a task's planes are one tile

  size_t scratch_bytes() const {
    const HeatmapMoments& f = call.forward;
    const int64_t pixels = int64_t(cut.tile_rows) * Tile::round_up(cut.tile_columns, lanes<A>::count);
    using C = Carver<A>;
    return 2 * C::bytes(at_once * pixels) + C::bytes(at_once * lanes<A>::count) + 3 * C::bytes(at_once * padded_width) +
           3 * C::bytes(at_once * f.logits.h) + C::bytes(padded_width) + C::bytes(f.logits.h) + 2 * C::bytes(at_once);
  }

  // visit(tile, from, row, plane) for all tiles of an image, with the channels from `from` on, rows and planes so many
  // elements apart: the tensor itself where it is planar, else `planes`, staged if they are to be read.
  template <class Visit>
  __attribute__((always_inline)) void walk(int64_t n, int64_t c, int channels, A* planes, int64_t pixels, A* staging,
                                           bool read, Visit visit) const {
    const Maps& z = call.forward.logits;
    for_tiles<A>(
        z, cut, Band{n, 0, z.h}, [&](const Tile& tile) __attribute__((always_inline)) {
          if (layout_of(z) == Layout::planar)
            return visit(tile, static_cast<const S*>(address<S>(z, n, c, tile.y, tile.x)), z.stride_h, z.stride_c);
          if (read) stage<S>(z, tile, c, channels, planes, pixels, staging);
          visit(tile, static_cast<const A*>(planes), int64_t(tile.pitch), pixels);
        });
  }

  // tops[r] = the largest of row r and of tops[r], lane by lane, in several rows at once: each is a chain.
  template <int R, class I>
  static void raise(const I* from, int64_t row, int columns, vec<A>* tops) {
    const A lowest = -A(__builtin_inf());
    for (int x = 0; x < columns; x += lanes<A>::count)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        tops[r] = maximum(tops[r], first_lanes<A>(load_up_to(from + r * row + x, columns - x), columns - x, lowest));
  }

  // Softmax of a short array of means, in place: a masked axis gives zeros.
  static void softmax(A* values, int64_t count, double scale, double inverse_temperature) {
    double top = -__builtin_inf(), sum = 0;
    for (int64_t i = 0; i < count; ++i) top = values[i] > top ? double(values[i]) : top;
    const double reference = top == -__builtin_inf() ? 0 : top;
    for (int64_t i = 0; i < count; ++i) {
      const double e = __builtin_exp((double(values[i]) - reference) * scale * inverse_temperature);
      sum += e;
      values[i] = A(e);
    }
    for (int64_t i = 0; i < count && sum != 0; ++i) values[i] = A(double(values[i]) / sum);
  }

  void run(int64_t task, char* memory) const {
    const int V = lanes<A>::count;
    const HeatmapMoments& f = call.forward;
    const Maps& z = f.logits;
    const int64_t groups = (z.c + at_once - 1) / at_once, n = task / groups, c0 = task % groups * at_once;
    const int channels = int(z.c - c0 < at_once ? z.c - c0 : at_once);
    const int64_t live = f.count - c0 < channels ? f.count - c0 : channels;  // the background is no landmark
    const int64_t pixels = int64_t(cut.tile_rows) * Tile::round_up(cut.tile_columns, V), wide = padded_width;
    const bool marginals = f.over == Over::marginals;
    const double inverse_temperature = 1 / f.temperature;
    Carver<A> carver{memory};
    A *planes = carver.take(at_once * pixels), *staging = carver.take(at_once * pixels),
      *top = carver.take(at_once * V);
    A *columns = carver.take(at_once * wide), *x_part = carver.take(at_once * wide), *dx = carver.take(at_once * wide);
    A *rows = carver.take(at_once * z.h), *y_part = carver.take(at_once * z.h), *cross = carver.take(at_once * z.h);
    A *u = carver.take(wide), *v = carver.take(z.h);
    A *sums = carver.take(at_once), *expected = carver.take(at_once);
    offsets_from_centre<A>(0, wide, z.w, u);
    offsets_from_centre<A>(0, z.h, z.h, v);
    memset(columns, 0, sizeof(A) * at_once * wide);
    memset(rows, 0, sizeof(A) * at_once * z.h);
    A* firsts = cross;  // forward only
    memset(firsts, 0, sizeof(A) * at_once * z.h);
    const Frame frame = frame_of(z.h, z.w, f.align_corners);
    const auto exponential = Exponential<A>::make(inverse_temperature);
    if (!marginals) {
      const A lowest = -A(__builtin_inf());
      for (int64_t i = 0; i < channels * V; ++i) top[i] = lowest;
      walk(n, c0, channels, planes, pixels, staging, true,
           [&](const Tile& tile, const auto* from, int64_t row, int64_t plane) {
             for (int k = 0; k < channels; ++k) {
               vec<A> tops[4] = {load(top + k * V), splat(lowest), splat(lowest), splat(lowest)};
               int r = 0;
               for (; r + 4 <= tile.rows; r += 4) raise<4>(from + k * plane + r * row, row, tile.columns, tops);
               for (; r < tile.rows; ++r) raise<1>(from + k * plane + r * row, row, tile.columns, tops);
               store(top + k * V, maximum(maximum(tops[0], tops[1]), maximum(tops[2], tops[3])));
             }
           });
      for (int k = 0; k < channels; ++k) {
        const A best = max_lanes<A>(load(top + k * V));
        top[k] = best == lowest ? A(0) : best;
      }
    }
    // What gives exp((z - max) / T) of channel k at (row, column) of a tile, and fetches what comes next. It holds
    // copies: what lies in memory would be read again after every store.
    const auto weights_of = [ =, this ](int k, const Tile& tile, const auto* from, int64_t row, int64_t plane)
        __attribute__((always_inline)) {
      const A reference = top[k];
      const int64_t ahead = at_once == 1 ? plane : 0;
      const int columns = tile.columns;
      from += k * plane;
      return [=](int r, int x) __attribute__((always_inline)) {
        const auto* at = from + r * row + x;
        fetch(at + ahead);
        return first_lanes<A>(exponential(load_up_to(at, columns - x) - reference), columns - x, 0);
      };
    };
    if (!backward || marginals)
      walk(n, c0, channels, planes, pixels, staging, marginals || !resident,
           [&](const Tile& tile, const auto* from, int64_t row, int64_t plane) {
             for (int k = 0; k < live; ++k) {
               const auto add = [&](auto covariance, auto value) __attribute__((always_inline)) {
                 add_marginals<A, true, decltype(covariance)::value>(
                     tile.rows, tile.columns, value, u + tile.x, columns + k * wide + tile.x, rows + k * z.h + tile.y,
                     firsts + k * z.h + tile.y);
               };
               const auto logit =
                   [ at = from + k * plane, row, some = tile.columns ](int r, int x) __attribute__((always_inline)) {
                 return load_up_to(at + r * row + x, some - x);
               };
               const auto weight = weights_of(k, tile, from, row, plane);
               if (marginals)
                 add(constant<false>{}, logit);
               else if (f.second == 3)
                 add(constant<true>{}, weight);
               else
                 add(constant<false>{}, weight);
             }
           });
    if (marginals)
      for (int64_t k = 0; k < live; ++k) {
        softmax(columns + k * wide, z.w, 1 / double(z.h), inverse_temperature);
        softmax(rows + k * z.h, z.h, 1 / double(z.w), inverse_temperature);
      }
    if (!backward) {
      for (int64_t k = 0; k < live; ++k) {
        Moments m;
        double mass;
        if (marginals) {
          const A one = 1, zero = 0;
          const Moments along_columns = moments_of<A>(columns + k * wide, u, z.w, &one, &zero, 1, nullptr);
          const Moments along_rows = moments_of<A>(rows + k * z.h, v, z.h, &one, &zero, 1, nullptr);
          m = {1, along_columns.mass * along_columns.x, along_rows.mass * along_rows.x, along_columns.xx, along_rows.xx,
               0};
          mass = along_columns.mass * along_rows.mass;
        } else {
          m = moments_of<A>(columns + k * wide, u, z.w, rows + k * z.h, v, z.h,
                            f.second == 3 ? firsts + k * z.h : nullptr);
          // A softmax sums to one: what is left of its mass is masked, or is not a number.
          const double sum = m.mass == 0 ? 1 : m.mass;
          m = {m.mass / sum, m.x, m.y, m.xx / sum, m.yy / sum, m.xy / sum};
          mass = m.mass;
        }
        Landmark found = finish(m, 1, frame);
        if (marginals) found.xy = 0;  // also where a marginal is not a number
        write_landmark<A>(f, n * f.count + c0 + k, found, mass);
      }
      return;
    }
    for (int64_t k = 0; k < live; ++k) {
      const int64_t landmark = n * f.count + c0 + k;
      const A* at = static_cast<const A*>(f.coords) + 2 * landmark;
      derivative_tables<A>(slopes_at<A>(call, landmark, frame), frame, at[0], at[1], z.w, wide, 0, z.h, z.h,
                           x_part + k * wide, dx + k * wide, y_part + k * z.h, cross + k * z.h);
      if (marginals) {
        through_softmax(columns + k * wide, x_part + k * wide, z.w, inverse_temperature / double(z.h));
        through_softmax(rows + k * z.h, y_part + k * z.h, z.h, inverse_temperature / double(z.w));
      }
    }
    const bool covariance = f.second == 3 && !marginals;
    const auto derivative_of = [=](int k, const Tile& tile, int r) __attribute__((always_inline)) {
      const A *hx = x_part + k * wide + tile.x, *d = dx + k * wide + tile.x;
      const A hy = y_part[k * z.h + tile.y + r], slope = cross[k * z.h + tile.y + r];
      return [=](int x) __attribute__((always_inline)) {
        const vec<A> h = load(hx + x) + hy;
        return covariance ? h + slope * load(d + x) : h;
      };
    };
    // A resident tile keeps its weights between the two passes.
    if (!marginals) {
      for (int k = 0; k < live; ++k) sums[k] = expected[k] = 0;
      walk(n, c0, channels, planes, pixels, staging, !resident,
           [&](const Tile& tile, const auto* from, int64_t row, int64_t plane) {
             for (int k = 0; k < live; ++k) {
               const auto weight = weights_of(k, tile, from, row, plane);
               vec<A> sum{}, weighted{};
               for (int r = 0; r < tile.rows; ++r) {
                 const auto derivative = derivative_of(k, tile, r);
                 A* kept = resident ? planes + k * pixels + r * tile.pitch : nullptr;
                 for (int x = 0; x < tile.columns; x += V) {
                   const vec<A> e = weight(r, x);
                   if (kept) store(kept + x, e);
                   sum += e;
                   weighted += e * derivative(x);
                 }
               }
               sums[k] += sum_lanes<A>(sum);
               expected[k] += sum_lanes<A>(weighted);
             }
           });
      for (int k = 0; k < live; ++k) {
        sums[k] = sums[k] == 0 ? A(0) : 1 / sums[k];
        expected[k] *= sums[k];
      }
    }
    const bool direct = layout_of(call.grad) == Layout::planar, streaming = streams_runs<S>(call.grad, cut);
    const bool streaming_pixels = streams_pixels<S>(call.grad, cut);
    walk(n, c0, channels, planes, pixels, staging, !marginals && !resident,
         [&](const Tile& tile, const auto* from, int64_t row, int64_t plane) {
           for (int k = 0; k < channels; ++k) {
             const auto weight = weights_of(k, tile, from, row, plane);
             for (int r = 0; r < tile.rows; ++r) {
               A* kept = planes + k * pixels + r * tile.pitch;
               S* to = direct ? address<S>(call.grad, n, c0 + k, tile.y + r, tile.x) : nullptr;
               const auto write =
                   [ to, kept, streaming, columns = tile.columns ](auto gradient) __attribute__((always_inline)) {
                 for (int x = 0; x < columns; x += V)
                   if (streaming)
                     stream(to + x, gradient(x));
                   else if (to)
                     store_up_to(to + x, gradient(x), columns - x);
                   else
                     store(kept + x, gradient(x));
               };
               if (k >= live) {
                 write([](int) { return vec<A>{}; });
                 continue;
               }
               const auto derivative = derivative_of(k, tile, r);
               if (marginals) {
                 write(derivative);
                 continue;
               }
               const A share = sums[k] * A(inverse_temperature), mean = expected[k];
               const auto through = [=](vec<A> e, int x) __attribute__((always_inline)) {
                 return e * share * (derivative(x) - mean);
               };
               if (resident)
                 write([=](int x) __attribute__((always_inline)) { return through(load(kept + x), x); });
               else
                 write([=](int x) __attribute__((always_inline)) { return through(weight(r, x), x); });
             }
           }
           if (!direct) unstage<S>(call.grad, tile, c0, channels, planes, pixels, staging, streaming_pixels);
         });
    if (streaming || streaming_pixels) stream_fence();
  }

  // g = p (g - sum p g) scale, in place.
  static void through_softmax(const A* p, A* g, int64_t count, double scale) {
    double mean = 0;
    for (int64_t i = 0; i < count; ++i) mean += double(p[i]) * double(g[i]);
    for (int64_t i = 0; i < count; ++i) g[i] = A(double(p[i]) * (double(g[i]) - mean) * scale);
  }
};

template <class S>
static void spatial_moments(const HeatmapMomentsBackward& call, bool backward) {
  using A = arithmetic<S>;
  const Maps& z = call.forward.logits;
  const bool together =
      layout_of(z) == Layout::interleaved || (backward && layout_of(call.grad) == Layout::interleaved);
  const int64_t at_once = together ? z.c : 1;
  const int padded = Tile::round_up(int(z.w), lanes<A>::count);
  Cut cut = cut_of<A>(z, int(at_once));
  const bool resident = at_once * z.h * padded * int64_t(sizeof(A)) <= 256 * 1024;
  if (resident) cut.tile_rows = int(z.h), cut.tile_columns = int(z.w);
  const SpatialMoments<S> job{call, backward, at_once, cut, padded, resident};
  run_tasks<SpatialMoments<S>>(job, z.n * (together ? 1 : z.c),
                               [](const auto& j, int64_t task, char* memory) { j.run(task, memory); });
}

}  // namespace LM_ISA
}  // namespace lmdis
