// The CPU as the operators' entries see it: which tensors it takes, memory to work in, what runs a call.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "kernels.h"

namespace lmdis {

class Backend {
 public:
  // For a call whose tensors are where this one is.
  explicit Backend(const torch::stable::Tensor&) {}

  static constexpr const char* device = "CPU";
  static constexpr const char* floating = "floating";
  static bool owns(const torch::stable::Tensor& tensor) { return tensor.is_cpu(); }
  static bool computes(torch::headeronly::ScalarType) { return true; }

  class Workspace {
   public:
    Workspace(const torch::stable::Tensor&, int64_t bytes) : bytes_(size_t(bytes)) {}
    void* data() { return bytes_.data(); }

   private:
    std::vector<char> bytes_;
  };

  static int64_t workspace_bytes(const HeatmapMoments& call) { return heatmap_moments_workspace(call); }
  static int64_t workspace_bytes(const HeatmapMomentsBackward&) { return 0; }
  static int64_t workspace_bytes(const LandmarkPool& call) { return pool_workspace(call) * size_of(call.features); }
  static int64_t workspace_bytes(const LandmarkPoolBackward& call) {
    return call.forward.over_pixels ? workspace_bytes(call.forward) : 0;
  }
  static int64_t workspace_bytes(const GaussianPool& call) { return pool_workspace(call) * size_of(call.features); }
  static int64_t workspace_bytes(const GaussianPoolBackward& call) {
    return pool_workspace(call) * size_of(call.forward.features);
  }
  static int64_t workspace_bytes(const GaussianSplatBackward& call) { return splat_workspace(call); }
  static int64_t workspace_bytes(const TpsWarp& call) { return tps_warp_workspace(call); }
  static int64_t workspace_bytes(const TpsWarpBackward& call) { return tps_warp_sums(call.forward); }

  void run(const HeatmapMoments& call) const { kernels().heatmap_moments(call); }
  void run(const HeatmapMomentsBackward& call) const { kernels().heatmap_moments_backward(call); }
  void run(const LandmarkPool& call) const { kernels().landmark_pool(call); }
  void run(const LandmarkPoolBackward& call) const { kernels().landmark_pool_backward(call); }
  void run(const GaussianPool& call) const { kernels().gaussian_pool(call); }
  void run(const GaussianPoolBackward& call) const { kernels().gaussian_pool_backward(call); }
  void run(const GaussianSplat& call) const { kernels().gaussian_splat(call); }
  void run(const GaussianSplatBackward& call) const { kernels().gaussian_splat_backward(call); }
  void run(const TpsWarp& call) const { kernels().tps_warp(call); }
  void run(const TpsWarpBackward& call) const { kernels().tps_warp_backward(call); }

 private:
  // Of the arithmetic type: features are float64 where that is double.
  static int64_t size_of(const Maps& maps) { return maps.dtype == Dtype::float64 ? 8 : 4; }
};

}  // namespace lmdis
