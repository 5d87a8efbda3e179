// What the vector code of tps_warp is called with.
#pragma once

#include "maps.h"

namespace lmdis {

struct TpsWarp {
  Maps image, out;                         // (N, C, H, W), (N, C, H', W'); backward: `out` is the upstream gradient
  Dense centers, weights, affine, before;  // (P, 2) or (N, P, 2), (N, P, 2), (N, 2, 3), (N, 2, 3) or null
  bool exact;                              // these, and positions, are double instead of float
  bool shared;                             // one set of centres for all images
  int64_t points;
  bool zeros, align_corners;
  void* workspace;  // tps_warp_workspace() bytes
};

struct TpsWarpBackward {
  TpsWarp forward;
  bool need_image;
  Maps grad_image;  // like the image; zero at first if float or double
  bool need_spline, need_centers;
  Dense grad_centers, grad_weights, grad_affine, grad_before;  // like the tensors, in their arithmetic type
  void* sums;                                                  // tps_warp_sums() bytes
};

// An output image is cut into this many bands of rows at most, each with its own part of every sum.
constexpr int tps_warp_most_bands = 32;

// Numbers that an image's gradients are: weights, centres, affine, before.
LM_FUNCTION int64_t tps_warp_gradients(int64_t points) { return 4 * points + 12; }

// Bytes: the splines as the vector code reads them, and two tables along a row.
LM_FUNCTION int64_t tps_warp_workspace(const TpsWarp& call) {
  const int64_t splines = call.image.n * (4 * call.points + 12) + 2 * call.points;
  return (splines + 2 * (call.out.w + 64)) * int64_t(sizeof(double)) + 16 * 64;
}
LM_FUNCTION int64_t tps_warp_sums(const TpsWarp& call) {
  const int64_t bands = call.out.h < tps_warp_most_bands ? call.out.h : tps_warp_most_bands;
  return bands * call.image.n * tps_warp_gradients(call.points) * int64_t(sizeof(double));
}

}  // namespace lmdis
