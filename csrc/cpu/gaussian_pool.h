// gaussian_pool on vectors: weights are products of two softmaxes, one along each axis.
#pragma once

#include "gaussian_axis.h"
#include "marginals.h"
#include "pool_band.h"

namespace lmdis {
namespace LM_ISA {

template <class S>
struct WindowPool {
  using A = arithmetic<S>;
  enum { V = lanes<A>::count };
  GaussianPoolBackward call;
  Cut cut;

  const GaussianPool& forward() const { return call.forward; }
  const Maps& maps() const { return call.forward.features; }
  int landmarks() const { return int(forward().landmarks); }
  int64_t wide() const { return Tile::round_up(int(maps().w), V); }
  A* sums(int64_t task) const { return workspace_of<A>(forward().workspace, task * landmarks() * maps().c); }
  A* columns(int64_t task) const { return workspace_of<A>(forward().workspace, task * landmarks() * maps().w); }
  A* rows(int64_t n) const { return columns(maps().n * cut.bands) + n * landmarks() * maps().h; }

  size_t scratch_bytes() const {
    using C = Carver<A>;
    return PoolBand<S>::bytes(cut, landmarks(), maps().c) + C::bytes(landmarks() * Sums<A>::pitch(maps().c)) +
           2 * C::bytes(landmarks() * wide()) + C::bytes(landmarks() * maps().h) +
           C::bytes(landmarks() * cut.band_rows);
  }

  // The weights of landmark k along both axes, each of sum one, and 0 beyond the columns.
  void axes(int64_t n, A* along_x, A* along_y) const {
    const Maps& f = maps();
    const A *coords = static_cast<const A*>(forward().coords), *sigma = static_cast<const A*>(forward().sigma);
    for (int64_t k = 0; k < landmarks(); ++k) {
      const int64_t at = n * landmarks() + k;
      axis_softmax<A>(coords[2 * at], sigma[at], f.w, f.h * f.w, forward().align_corners, wide(), along_x + k * wide());
      axis_softmax<A>(coords[2 * at + 1], sigma[at], f.h, f.h * f.w, forward().align_corners, f.h, along_y + k * f.h);
    }
  }
  void weigh(const PoolBand<S>& band, const Tile& tile, const A* along_x, const A* along_y) const {
    for (int k = 0; k < landmarks(); ++k)
      for (int r = 0; r < tile.rows; ++r) {
        const A row = along_y[k * maps().h + tile.y + r];
        A* to = band.q + k * band.pixels + r * tile.pitch;
        for (int x = 0; x < tile.pitch; x += V) store(to + x, load(along_x + k * wide() + tile.x + x) * row);
      }
  }

  void pool_band(int64_t task, char* memory) const {
    const FlushTiny flushing;
    Carver<A> carver{memory};
    PoolBand<S> band(maps(), landmarks(), cut, task, carver);
    const int64_t numbers = landmarks() * Sums<A>::pitch(maps().c);
    A *total = carver.take(numbers), *along_x = carver.take(landmarks() * wide());
    A* along_y = carver.take(landmarks() * maps().h);
    memset(total, 0, sizeof(A) * numbers);
    axes(band.n, along_x, along_y);
    band.walk([&](const Tile& tile) { weigh(band, tile, along_x, along_y); },
              [&](const Tile& tile) {
                pool_tile<S>(band.q, band.pixels, landmarks(), maps(), tile, total, band.planes, band.staging);
              });
    for (int64_t k = 0; k < landmarks(); ++k)
      for (int64_t s = 0; s < maps().c; ++s) sums(task)[k * maps().c + s] = pooled_sum<S>(maps(), total, k, s);
  }
  void finish_image(int64_t n) const {
    const int64_t numbers = landmarks() * maps().c;
    for (int64_t i = 0; i < numbers; ++i) {
      double sum = 0;
      for (int64_t band = 0; band < cut.bands; ++band) sum += double(sums(n * cut.bands + band)[i]);
      static_cast<A*>(forward().pooled)[n * numbers + i] = A(sum);
    }
  }

  void backward_band(int64_t task, char* memory) const {
    const FlushTiny flushing;
    Carver<A> carver{memory};
    PoolBand<S> band(maps(), landmarks(), cut, task, carver);
    const int64_t S_ = maps().c;
    A *along_x = carver.take(landmarks() * wide()), *by_x = carver.take(landmarks() * wide());
    A *along_y = carver.take(landmarks() * maps().h), *by_y = carver.take(landmarks() * cut.band_rows);
    const A* grad = static_cast<const A*>(call.grad) + band.n * landmarks() * S_;
    axes(band.n, along_x, along_y);
    memset(by_x, 0, sizeof(A) * landmarks() * wide());
    memset(by_y, 0, sizeof(A) * landmarks() * cut.band_rows);
    const Writing writing = call.need_features ? writing_of<S>(call.grad_features, cut, false) : Writing::cached;
    band.walk([&](const Tile& tile) { weigh(band, tile, along_x, along_y); },
              [&](const Tile& tile) {
                if (call.need_features)
                  spread_to<S>(call.grad_features, tile, grad, S_, 1, band.q, band.pixels, landmarks(), 0, int(S_),
                               band.more, band.pixels, band.staging, writing);
                if (!call.need_landmarks) return;
                with_planes<S>(maps(), tile, 0, int(S_), band.planes, band.pixels, band.staging,
                               [&](const auto* features, int64_t pitch, int64_t ahead) {
                                 spread<A>(grad, 1, S_, features, pitch, int(S_), band.more, band.pixels, landmarks(),
                                           tile.rows * tile.pitch, ahead != 0);
                               });
                for (int k = 0; k < landmarks(); ++k)
                  add_marginals<A>(band.q + k * band.pixels, band.more + k * band.pixels, nullptr, tile,
                                   by_x + k * wide() + tile.x, by_y + k * cut.band_rows + (tile.y - band.y), nullptr);
              });
    if (writing != Writing::cached) stream_fence();
    for (int64_t k = 0; k < landmarks() && call.need_landmarks; ++k) {
      memcpy(columns(task) + k * maps().w, by_x + k * wide(), sizeof(A) * maps().w);
      memcpy(rows(band.n) + k * maps().h + band.y, by_y + k * cut.band_rows, sizeof(A) * band.height);
    }
  }

  // Gradients of landmark k from the marginals of weight times gradient.
  void finish_landmark(int64_t n, int64_t k, A* along_x, A* along_y) const {
    const Maps& f = maps();
    const int64_t at = n * landmarks() + k;
    const double sigma = static_cast<const A*>(forward().sigma)[at];
    double widened = 0;
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t count = axis ? f.h : f.w;
      const double scale = width_scale(count, f.h * f.w, forward().align_corners);
      const double centre = static_cast<const A*>(forward().coords)[2 * at + axis];
      const A* weight = axis ? along_y + k * f.h : along_x + k * wide();
      const auto marginal = [&](int64_t i) {
        if (axis) return double(rows(n)[k * f.h + i]);
        double sum = 0;
        for (int64_t band = 0; band < cut.bands; ++band) sum += double(columns(n * cut.bands + band)[k * f.w + i]);
        return sum;
      };
      double total = 0, moved = 0;
      for (int64_t i = 0; i < count; ++i) total += marginal(i);
      for (int64_t i = 0; i < count; ++i) {
        const double score = marginal(i) - double(weight[i]) * total;
        const double offset = scale * (pixel_centre(i, count, forward().align_corners) - centre);
        moved += score * offset;
        widened += score * offset * offset;
      }
      static_cast<A*>(call.grad_coords)[2 * at + axis] = A(coordinate_gradient(moved, sigma, scale));
    }
    static_cast<A*>(call.grad_sigma)[at] = A(width_gradient(widened, sigma));
  }
  void finish_backward(int64_t n, char* memory) const {
    Carver<A> carver{memory};
    A *along_x = carver.take(landmarks() * wide()), *along_y = carver.take(landmarks() * maps().h);
    axes(n, along_x, along_y);
    for (int64_t k = 0; k < landmarks(); ++k) finish_landmark(n, k, along_x, along_y);
  }
};

template <class S>
static WindowPool<S> window_pool(const GaussianPoolBackward& call) {
  return {call, cut_for_products<arithmetic<S>>(call.forward.features, int(call.forward.landmarks),
                                                pool_band_pixels(call.forward))};
}

static void gaussian_pool(const GaussianPool& call) {
  with_dtype(call.features.dtype, [&](auto s) {
    using Job = WindowPool<decltype(s)>;
    const Job job = window_pool<decltype(s)>({call, nullptr, false, false, {}, nullptr, nullptr});
    run_tasks<Job>(job, call.features.n * job.cut.bands,
                   [](const Job& j, int64_t task, char* memory) { j.pool_band(task, memory); });
    for (int64_t n = 0; n < call.features.n; ++n) job.finish_image(n);
  });
}

static void gaussian_pool_backward(const GaussianPoolBackward& call) {
  with_dtype(call.forward.features.dtype, [&](auto s) {
    using Job = WindowPool<decltype(s)>;
    const Job job = window_pool<decltype(s)>(call);
    run_tasks<Job>(job, job.maps().n * job.cut.bands,
                   [](const Job& j, int64_t task, char* memory) { j.backward_band(task, memory); });
    if (call.need_landmarks)
      run_tasks<Job>(job, job.maps().n, [](const Job& j, int64_t n, char* memory) { j.finish_backward(n, memory); });
  });
}

}  // namespace LM_ISA
}  // namespace lmdis
