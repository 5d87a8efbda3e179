// landmark_pool, gaussian_pool and their backwards as torch operators; see lmdis_fast/ops/landmark_pool.py.
#pragma once

#include <tuple>

#include "../landmark_pool.h"
#include "tensors.h"

namespace lmdis {
namespace entries {

inline bool over_pixels(const std::string& word) {
  STD_TORCH_CHECK(word == "channels" || word == "pixels",
                  "landmark_pool: over must be one of 'channels', 'pixels', got '", word, "'");
  return word == "pixels";
}

inline void check_pair(const Tensor& features, const Tensor& logits) {
  check_maps("landmark_pool", "features", features, "(N, S, H, W)");
  check_maps("landmark_pool", "logits", logits, "(N, C, H, W)");
  const bool alike =
      features.size(0) == logits.size(0) && features.size(2) == logits.size(2) && features.size(3) == logits.size(3);
  STD_TORCH_CHECK(alike, "landmark_pool: features and logits must have the same N, H and W, got ", described(features),
                  " and ", described(logits));
  check_together("landmark_pool", features, {&logits});
}

// Both tensors in one dtype: their own, or the arithmetic type where they differ, which costs a copy of one.
struct Pair {
  Tensor features, logits;
  Pair(const Tensor& f, const Tensor& z) : features(f), logits(z) {
    if (f.scalar_type() == z.scalar_type()) return;
    const ScalarType type = arithmetic_type({&f, &z});
    features = torch::stable::to(f, type);
    logits = torch::stable::to(z, type);
  }
};

inline LandmarkPool call_of(const Pair& pair, const std::string& over, double temperature, double eps) {
  check_positive("landmark_pool", "temperature", temperature);
  check_not_negative("landmark_pool", "eps", eps);
  LandmarkPool call{};
  call.features = maps_of(pair.features);
  call.logits = maps_of(pair.logits);
  call.over_pixels = over_pixels(over);
  call.temperature = temperature;
  call.eps = eps;
  return call;
}

inline std::tuple<Tensor, Tensor> landmark_pool(const Tensor& features, const Tensor& logits, std::string over,
                                                double temperature, double eps) {
  check_pair(features, logits);
  const Pair pair(features, logits);
  const ScalarType type = arithmetic_type({&features, &logits});
  LandmarkPool call = call_of(pair, over, temperature, eps);
  const int64_t n = logits.size(0), channels = logits.size(1);
  Tensor pooled = empty(features, {n, channels, features.size(1)}, type), mass = empty(features, {n, channels}, type);
  call.pooled = pooled.mutable_data_ptr();
  call.mass = mass.mutable_data_ptr();
  run_with_workspace(features, call);
  return {pooled, mass};
}

inline std::tuple<Tensor, Tensor> landmark_pool_backward(std::optional<Tensor> grad_pooled,
                                                         std::optional<Tensor> grad_mass, const Tensor& features,
                                                         const Tensor& logits, const Tensor& pooled, const Tensor& mass,
                                                         std::string over, double temperature, double eps,
                                                         bool need_features, bool need_logits) {
  check_pair(features, logits);
  const Pair pair(features, logits);
  const ScalarType type = arithmetic_type({&features, &logits});
  LandmarkPoolBackward call{};
  call.forward = call_of(pair, over, temperature, eps);
  const std::vector<int64_t> shape = {logits.size(0), logits.size(1), features.size(1)}, flat = {shape[0], shape[1]};
  check_shape("landmark_pool", "pooled", pooled, shape, type);
  check_shape("landmark_pool", "mass", mass, flat, type);
  check_together("landmark_pool", features, {&pooled, &mass, address(grad_pooled), address(grad_mass)});
  if (grad_pooled) check_shape("landmark_pool", "grad_pooled", *grad_pooled, shape, type);
  if (grad_mass) check_shape("landmark_pool", "grad_mass", *grad_mass, flat, type);
  const Tensor means = dense(pooled, type), masses = dense(mass, type);
  const auto of_pooled = dense(grad_pooled, type), of_mass = dense(grad_mass, type);
  // Results are made in the kernel's dtype and cast only where the inputs' dtypes differ.
  Tensor grad_features = need_features ? empty_like_in(features, pair.features.scalar_type()) : absent(features);
  Tensor grad_logits = need_logits ? empty_like_in(logits, pair.logits.scalar_type()) : absent(logits);
  call.forward.pooled = means.data_ptr();
  call.forward.mass = masses.data_ptr();
  call.grad_pooled = pointer(of_pooled);
  call.grad_mass = pointer(of_mass);
  call.need_features = need_features;
  call.need_logits = need_logits;
  if (need_features) call.grad_features = maps_of(grad_features);
  if (need_logits) call.grad_logits = maps_of(grad_logits);
  if (need_features || need_logits) run_with_workspace(features, call);
  return {cast(grad_features, features.scalar_type()), cast(grad_logits, logits.scalar_type())};
}

// Coordinates and widths in the arithmetic type; features too where theirs is narrower than float64 coordinates ask
// for.
struct Windows {
  Tensor features, coords, sigma;
  ScalarType type;
  Windows(const Tensor& f, const Tensor& c, const Tensor& s) : type(arithmetic_type({&f, &c, &s})) {
    check_maps("gaussian_pool", "features", f, "(N, S, H, W)");
    check_floating("gaussian_pool", "coords", c, "(N, K, 2)", 3);
    check_floating("gaussian_pool", "sigma", s, "(N, K)", 2);
    const bool fits =
        c.size(0) == f.size(0) && c.size(1) >= 1 && c.size(2) == 2 && s.size(0) == c.size(0) && s.size(1) == c.size(1);
    STD_TORCH_CHECK(fits, "gaussian_pool: coords must be (N, K, 2) and sigma (N, K) for features ", described(f),
                    ", got ", described(c), " and ", described(s));
    check_together("gaussian_pool", f, {&c, &s});
    features = type == ScalarType::Double ? torch::stable::to(f, type) : f;
    coords = dense(c, type);
    sigma = dense(s, type);
  }
  GaussianPool call(bool align_corners) const {
    GaussianPool call{};
    call.features = maps_of(features);
    call.landmarks = coords.size(1);
    call.coords = coords.data_ptr();
    call.sigma = sigma.data_ptr();
    call.align_corners = align_corners;
    return call;
  }
};

inline Tensor gaussian_pool(const Tensor& features, const Tensor& coords, const Tensor& sigma, bool align_corners) {
  const Windows windows(features, coords, sigma);
  GaussianPool call = windows.call(align_corners);
  Tensor pooled = empty(features, {coords.size(0), coords.size(1), features.size(1)}, windows.type);
  call.pooled = pooled.mutable_data_ptr();
  run_with_workspace(features, call);
  return pooled;
}

inline std::tuple<Tensor, Tensor, Tensor> gaussian_pool_backward(const Tensor& grad, const Tensor& features,
                                                                 const Tensor& coords, const Tensor& sigma,
                                                                 bool align_corners, bool need_features,
                                                                 bool need_landmarks) {
  const Windows windows(features, coords, sigma);
  check_shape("gaussian_pool", "grad", grad, {coords.size(0), coords.size(1), features.size(1)}, windows.type);
  check_together("gaussian_pool", features, {&grad});
  GaussianPoolBackward call{};
  call.forward = windows.call(align_corners);
  const Tensor upstream = dense(grad, windows.type);
  Tensor grad_features = need_features ? empty_like_in(features, windows.features.scalar_type()) : absent(features);
  Tensor grad_coords =
      need_landmarks ? empty(coords, {coords.size(0), coords.size(1), 2}, windows.type) : absent(coords);
  Tensor grad_sigma = need_landmarks ? empty(sigma, {sigma.size(0), sigma.size(1)}, windows.type) : absent(sigma);
  call.grad = upstream.data_ptr();
  call.need_features = need_features;
  call.need_landmarks = need_landmarks;
  if (need_features) call.grad_features = maps_of(grad_features);
  call.grad_coords = need_landmarks ? grad_coords.mutable_data_ptr() : nullptr;
  call.grad_sigma = need_landmarks ? grad_sigma.mutable_data_ptr() : nullptr;
  if (need_features || need_landmarks) run_with_workspace(features, call);
  return {cast(grad_features, features.scalar_type()), cast(grad_coords, coords.scalar_type()),
          cast(grad_sigma, sigma.scalar_type())};
}

}  // namespace entries
}  // namespace lmdis
