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

  // visit(tile) for all tiles of an image, with the channels staged in `planes`.
  template <class Visit>
  __attribute__((always_inline)) void walk(int64_t n, int64_t c, int channels, A* planes, int64_t pixels, A* staging,
                                           bool read, Visit visit) const {
    const Maps& z = call.forward.logits;
    for_tiles<A>(
        z, cut, Band{n, 0, z.h}, [&](const Tile& tile) __attribute__((always_inline)) {
          if (read) stage<S>(z, tile, c, channels, planes, pixels, staging);
          visit(tile);
        });
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
    const auto lanes_beyond = [V](vec<A> value, int some, A other) __attribute__((always_inline)) {
      if (some < V)
        for (int i = some; i < V; ++i) value[i] = other;
      return value;
    };
    if (!marginals) {
      for (int64_t i = 0; i < at_once * V; ++i) top[i] = -A(__builtin_inf());
      walk(n, c0, channels, planes, pixels, staging, true, [&](const Tile& tile) {
        for (int k = 0; k < channels; ++k) {
          vec<A> best = load(top + k * V);
          for (int r = 0; r < tile.rows; ++r)
            for (int x = 0; x < tile.columns; x += V)
              best = maximum(best, lanes_beyond(load(planes + k * pixels + r * tile.pitch + x), tile.columns - x,
                                                -A(__builtin_inf())));
          store(top + k * V, best);
        }
      });
      for (int k = 0; k < channels; ++k) {
        A best = top[k * V];
        for (int i = 1; i < V; ++i) best = best > top[k * V + i] ? best : top[k * V + i];
        top[k] = best == -A(__builtin_inf()) ? A(0) : best;
      }
    }
    bool raised = false;  // the tile at hand holds exponentials already
    const auto exponentiate = [&](const Tile& tile) __attribute__((always_inline)) {
      if (raised) return;
      raised = resident;
      for (int k = 0; k < channels; ++k)
        for (int r = 0; r < tile.rows; ++r)
          for (int x = 0; x < tile.columns; x += V) {
            A* at = planes + k * pixels + r * tile.pitch + x;
            store(at, lanes_beyond(exponential(load(at) - top[k]), tile.columns - x, A(0)));
          }
    };
    if (!backward || marginals) {
      walk(n, c0, channels, planes, pixels, staging, marginals || !resident, [&](const Tile& tile) {
        if (!marginals) exponentiate(tile);
        for (int k = 0; k < live; ++k)
          add_marginals<A>(planes + k * pixels, nullptr, f.second == 3 && !marginals ? u + tile.x : nullptr, tile,
                           columns + k * wide + tile.x, rows + k * z.h + tile.y, firsts + k * z.h + tile.y);
      });
    }
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
    const auto derivative = [&](int k, const Tile& tile, int r, int x) __attribute__((always_inline)) {
      const int64_t y = k * z.h + tile.y + r, column = k * wide + tile.x + x;
      return load(x_part + column) + y_part[y] + cross[y] * load(dx + column);
    };
    if (!marginals) {
      A* found = columns;  // (sum, sum of e h) by lane
      memset(found, 0, sizeof(A) * at_once * wide);
      for (int k = 0; k < live; ++k) sums[k] = expected[k] = 0;
      walk(n, c0, channels, planes, pixels, staging, !resident, [&](const Tile& tile) {
        exponentiate(tile);
        for (int k = 0; k < live; ++k) {
          vec<A> sum{}, weighted{};
          for (int r = 0; r < tile.rows; ++r)
            for (int x = 0; x < tile.columns; x += V) {
              const vec<A> e = load(planes + k * pixels + r * tile.pitch + x);
              sum += e;
              weighted += e * derivative(k, tile, r, x);
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
    walk(n, c0, channels, planes, pixels, staging, !marginals && !resident, [&](const Tile& tile) {
      if (!marginals) exponentiate(tile);
      for (int k = 0; k < channels; ++k)
        for (int r = 0; r < tile.rows; ++r)
          for (int x = 0; x < tile.pitch; x += V) {
            A* at = planes + k * pixels + r * tile.pitch + x;
            if (k >= live)
              store(at, vec<A>{});
            else if (marginals)
              store(at, load(x_part + k * wide + tile.x + x) + y_part[k * z.h + tile.y + r]);
            else
              store(at, load(at) * (sums[k] * A(inverse_temperature)) * (derivative(k, tile, r, x) - expected[k]));
          }
      unstage<S>(call.grad, tile, c0, channels, planes, pixels, staging);
    });
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
