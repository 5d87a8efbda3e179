// heatmap_moments and its backward as torch operators; see lmdis_fast/ops/heatmap_moments.py.
#pragma once

#include <tuple>

#include "../heatmap_moments.h"
#include "tensors.h"

namespace lmdis {
namespace entries {

constexpr const char* kOp = "heatmap_moments";

inline Over over_of(const std::string& word) {
  if (word == "channels") return Over::channels;
  if (word == "pixels") return Over::pixels;
  STD_TORCH_CHECK(word == "marginals", kOp, ": over must be one of 'channels', 'pixels', 'marginals', got '", word,
                  "'");
  return Over::marginals;
}

inline HeatmapMoments call_of(const Tensor& logits, const std::string& over, bool background, double temperature,
                              bool align_corners, double eps, int64_t second) {
  check_maps(kOp, "logits", logits, background ? "(N, K+1, H, W)" : "(N, K, H, W)");
  const int64_t count = logits.size(1) - int64_t(background);
  STD_TORCH_CHECK(count >= 1, kOp, ": logits must be (N, K+1, H, W) with K at least 1, got ", described(logits));
  check_positive(kOp, "temperature", temperature);
  check_not_negative(kOp, "eps", eps);
  HeatmapMoments call{};
  call.logits = maps_of(logits);
  call.over = over_of(over);
  call.count = count;
  call.temperature = temperature;
  call.eps = eps;
  call.align_corners = align_corners;
  call.second = second;
  return call;
}

inline std::tuple<Tensor, Tensor, Tensor> heatmap_moments(const Tensor& logits, std::string over, bool background,
                                                          double temperature, bool align_corners, double eps,
                                                          bool covariance) {
  const int64_t second = covariance ? 3 : 2;
  HeatmapMoments call = call_of(logits, over, background, temperature, align_corners, eps, second);
  const ScalarType type = arithmetic_type({&logits});
  const int64_t n = logits.size(0);
  Tensor coords = empty(logits, {n, call.count, 2}, type), variance = empty(logits, {n, call.count, second}, type);
  Tensor mass = empty(logits, {n, call.count}, type);
  call.coords = coords.mutable_data_ptr();
  call.variance = variance.mutable_data_ptr();
  call.mass = mass.mutable_data_ptr();
  run_with_workspace(logits, call);
  return {coords, variance, mass};
}

inline Tensor heatmap_moments_backward(std::optional<Tensor> grad_coords, std::optional<Tensor> grad_variance,
                                       std::optional<Tensor> grad_mass, const Tensor& logits, const Tensor& coords,
                                       const Tensor& variance, const Tensor& mass, std::string over, bool background,
                                       double temperature, bool align_corners, double eps) {
  STD_TORCH_CHECK(variance.dim() == 3 && (variance.size(2) == 2 || variance.size(2) == 3), kOp,
                  ": variance must be (N, K, 2) or (N, K, 3), got ", described(variance));
  const int64_t second = variance.size(2), n = logits.size(0);
  HeatmapMomentsBackward call{};
  call.forward = call_of(logits, over, background, temperature, align_corners, eps, second);
  const ScalarType type = arithmetic_type({&logits});
  const int64_t count = call.forward.count;
  check_shape(kOp, "coords", coords, {n, count, 2}, type);
  check_shape(kOp, "variance", variance, {n, count, second}, type);
  check_shape(kOp, "mass", mass, {n, count}, type);
  check_together(kOp, logits,
                 {&coords, &variance, &mass, address(grad_coords), address(grad_variance), address(grad_mass)});
  if (grad_coords) check_shape(kOp, "grad_coords", *grad_coords, {n, count, 2}, type);
  if (grad_variance) check_shape(kOp, "grad_variance", *grad_variance, {n, count, second}, type);
  if (grad_mass) check_shape(kOp, "grad_mass", *grad_mass, {n, count}, type);
  const Tensor at = dense(coords, type), spread = dense(variance, type), masses = dense(mass, type);
  const auto of_coords = dense(grad_coords, type), of_variance = dense(grad_variance, type);
  const auto of_mass = dense(grad_mass, type);
  Tensor grad = torch::stable::empty_like(logits);
  call.forward.coords = at.data_ptr();
  call.forward.variance = spread.data_ptr();
  call.forward.mass = masses.data_ptr();
  call.grad_coords = pointer(of_coords);
  call.grad_variance = pointer(of_variance);
  call.grad_mass = pointer(of_mass);
  call.grad = maps_of(grad);
  run_with_workspace(logits, call);
  return grad;
}

}  // namespace entries
}  // namespace lmdis
