// Mathematics of landmark_pool and gaussian_pool that every backend shares; see lmdis_fast/reference/landmark_pool.py.
#pragma once

#include "gaussian_splat.h"

namespace lmdis {

// What the weighted sum of the features is divided by.
LM_FUNCTION double pool_divisor(double mass, double eps, bool over_pixels) { return over_pixels ? 1 : mass + eps; }

// h(p) = sum_s (g_s / D) F_s(p) + base, the derivative by a channel's weight at p: `along` is sum_s (g_s / D) f_s.
LM_FUNCTION double pool_gradient_base(double along, double grad_mass, bool over_pixels) {
  return (over_pixels ? 0 : grad_mass) - along;
}

// A softmax's derivative: q (h - expected) / T, where `expected` = sum q h over whatever the softmax ran over.
template <class V, class A>
LM_FUNCTION V through_softmax(V q, V h, V expected, A inverse_temperature) {
  return q * (h - expected) * inverse_temperature;
}

// gaussian_pool: derivative by sigma, given sum_i score_i offset(i)^2 over both axes.
LM_FUNCTION double width_gradient(double weighted_squares, double sigma) {
  return weighted_squares / (sigma * sigma * sigma);
}

struct LandmarkPool {
  Maps features, logits;  // of one dtype
  bool over_pixels;
  double temperature, eps;
  Dense pooled, mass;  // (N, C, S), (N, C)
  void* workspace;     // as many bytes as the backend asks for
};

struct LandmarkPoolBackward {
  LandmarkPool forward;                 // its outputs are inputs here
  const void *grad_pooled, *grad_mass;  // like the outputs, or null
  bool need_features, need_logits;
  Maps grad_features, grad_logits;
};

struct GaussianPool {
  Maps features;
  int64_t landmarks;
  const void *coords, *sigma;  // (N, K, 2), (N, K)
  bool align_corners;
  Dense pooled;     // (N, K, S)
  void* workspace;  // as many bytes as the backend asks for
};

struct GaussianPoolBackward {
  GaussianPool forward;
  const void* grad;  // (N, K, S)
  bool need_features, need_landmarks;
  Maps grad_features;
  Dense grad_coords, grad_sigma;
};

}  // namespace lmdis
