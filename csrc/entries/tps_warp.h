// tps_warp and its backward as torch operators; see lmdis_fast/ops/tps_warp.py.
#pragma once

#include <algorithm>
#include <tuple>

#include "../tps_warp.h"
#include "tensors.h"

namespace lmdis {
namespace entries {

constexpr const char* kOp = "tps_warp";

// Beyond this many pixels along a side float positions are too coarse.
constexpr int64_t kLongSide = int64_t(1) << 20;

// Unlike maps these may be float64 on every backend.
inline void check_real(const char* name, const Tensor& tensor, const char* form, int64_t rank) {
  check_device(kOp, name, tensor);
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(is_floating(type) && tensor.dim() == rank, kOp, ": ", name, " must be ", form, " floating, got ",
                  described(tensor));
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, kOp, ": ", name,
                  " must be float32 or float64, got ", described(tensor));
}

inline bool is_zeros(const std::string& padding_mode) {
  STD_TORCH_CHECK(padding_mode == "border" || padding_mode == "zeros", kOp,
                  ": padding_mode must be one of 'border', 'zeros', got '", padding_mode, "'");
  return padding_mode == "zeros";
}

inline void check_size(int64_t height, int64_t width) {
  constexpr int64_t most = int64_t(1) << 30;
  STD_TORCH_CHECK(height >= 1 && width >= 1 && height < most && width < most, kOp,
                  ": size must be (H, W) in whole pixels, at least 1 each, got (", height, ", ", width, ")");
}

// The spline's tensors in the type of the arithmetic.
struct SplineTensors {
  ScalarType type;
  Tensor centers, weights, affine;
  std::optional<Tensor> before;
};

inline SplineTensors spline_of(const Tensor& image, const Tensor& centers, const Tensor& weights, const Tensor& affine,
                               const std::optional<Tensor>& before, int64_t longest) {
  check_maps(kOp, "image", image, "(N, C, H, W)");
  check_device(kOp, "centers", centers);
  check_real("centers", centers, "(P, 2) or (N, P, 2)", centers.dim() == 2 ? 2 : 3);
  check_real("weights", weights, "(N, P, 2)", 3);
  check_real("affine", affine, "(N, 2, 3)", 3);
  const int64_t n = image.size(0), points = weights.size(1);
  check_shape(kOp, "weights", weights, {n, points, 2}, weights.scalar_type());
  check_shape(kOp, "affine", affine, {n, 2, 3}, affine.scalar_type());
  if (centers.dim() == 2)
    check_shape(kOp, "centers", centers, {points, 2}, centers.scalar_type());
  else
    check_shape(kOp, "centers", centers, {n, points, 2}, centers.scalar_type());
  if (before) {
    check_real("before", *before, "(N, 2, 3)", 3);
    check_shape(kOp, "before", *before, {n, 2, 3}, before->scalar_type());
  }
  check_together(kOp, image, {&centers, &weights, &affine, address(before)});
  ScalarType type = arithmetic_type({&image, &centers, &weights, &affine});
  if ((before && before->scalar_type() == ScalarType::Double) || longest > kLongSide) type = ScalarType::Double;
  return {type, dense(centers, type), dense(weights, type), dense(affine, type), dense(before, type)};
}

inline TpsWarp call_of(const Tensor& image, const Tensor& out, const SplineTensors& spline, bool zeros,
                       bool align_corners) {
  TpsWarp call{};
  call.image = maps_of(image);
  call.out = maps_of(out);
  call.centers = spline.centers.data_ptr();
  call.weights = spline.weights.data_ptr();
  call.affine = spline.affine.data_ptr();
  call.before = spline.before ? spline.before->data_ptr() : nullptr;
  call.exact = spline.type == ScalarType::Double;
  call.shared = spline.centers.dim() == 2;
  call.points = spline.weights.size(1);
  call.zeros = zeros;
  call.align_corners = align_corners;
  return call;
}

// channels_last for an image laid out so and not also contiguous, otherwise contiguous.
inline torch::headeronly::MemoryFormat memory_format_of(const Tensor& image) {
  using torch::headeronly::MemoryFormat;
  int64_t expected = 1;
  bool channels_last = !image.is_contiguous();
  for (const int64_t axis : {1, 3, 2, 0}) {
    if (image.size(axis) == 1) continue;
    channels_last = channels_last && image.stride(axis) == expected;
    expected *= image.size(axis);
  }
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline int64_t longest_side(const Tensor& image, int64_t height, int64_t width) {
  return std::max(std::max(image.size(2), image.size(3)), std::max(height, width));
}

inline Tensor tps_warp(const Tensor& image, const Tensor& centers, const Tensor& weights, const Tensor& affine,
                       std::optional<Tensor> before, std::vector<int64_t> size, std::string padding_mode,
                       bool align_corners) {
  check_maps(kOp, "image", image, "(N, C, H, W)");
  STD_TORCH_CHECK(size.size() == 2, kOp, ": size must be (H, W), got ", size.size(), " numbers");
  check_size(size[0], size[1]);
  const bool zeros = is_zeros(padding_mode);
  const SplineTensors spline =
      spline_of(image, centers, weights, affine, before, longest_side(image, size[0], size[1]));
  const std::vector<int64_t> shape = {image.size(0), image.size(1), size[0], size[1]};
  const Tensor out = torch::stable::empty(shape, image.scalar_type(), std::nullopt, image.device(), std::nullopt,
                                          memory_format_of(image));
  if (image.size(0) == 0) return out;
  TpsWarp call = call_of(image, out, spline, zeros, align_corners);
  run_with_workspace(image, call);
  return out;
}

// Like the tensor in the type of the arithmetic if it was asked for, zero if there are no images.
inline Tensor gradient_like(const Tensor& tensor, bool needed, ScalarType type) {
  if (!needed) return absent(tensor);
  const auto sizes = tensor.sizes();
  Tensor grad = empty(tensor, {sizes.begin(), sizes.end()}, type);
  return torch::stable::zero_(grad);
}

inline Tensor in_type_of(const Tensor& gradient, const Tensor& tensor) {
  return gradient.scalar_type() == tensor.scalar_type() ? gradient : torch::stable::to(gradient, tensor.scalar_type());
}

template <bool repeatable>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> warp_gradients(
    const Tensor& grad, const Tensor& image, const Tensor& centers, const Tensor& weights, const Tensor& affine,
    const std::optional<Tensor>& before, const std::string& padding_mode, bool align_corners, bool need_image,
    bool need_spline, bool need_centers) {
  check_maps(kOp, "image", image, "(N, C, H, W)");
  check_maps(kOp, "grad", grad, "(N, C, H, W)");
  check_shape(kOp, "grad", grad, {image.size(0), image.size(1), grad.size(2), grad.size(3)}, image.scalar_type());
  check_together(kOp, image, {&grad});
  const bool zeros = is_zeros(padding_mode);
  const SplineTensors spline =
      spline_of(image, centers, weights, affine, before, longest_side(image, grad.size(2), grad.size(3)));
  const bool need_before = before && need_spline;
  Tensor of_image = need_image ? torch::stable::empty_like(image) : absent(image);
  if (need_image && !repeatable &&
      (image.scalar_type() == ScalarType::Float || image.scalar_type() == ScalarType::Double))
    of_image = torch::stable::zero_(of_image);
  const Tensor of_centers = gradient_like(centers, need_centers, spline.type);
  const Tensor of_weights = gradient_like(weights, need_spline, spline.type);
  const Tensor of_affine = gradient_like(affine, need_spline, spline.type);
  const Tensor of_before = gradient_like(before ? *before : affine, need_before, spline.type);
  if (image.size(0) > 0) {
    TpsWarpBackward call{};
    call.forward = call_of(image, grad, spline, zeros, align_corners);
    call.need_image = need_image;
    call.repeatable = repeatable;
    if (need_image) call.grad_image = maps_of(of_image);
    call.need_spline = need_spline;
    call.need_centers = need_centers;
    call.grad_centers = of_centers.data_ptr();
    call.grad_weights = of_weights.data_ptr();
    call.grad_affine = of_affine.data_ptr();
    call.grad_before = of_before.data_ptr();
    Backend::Workspace workspace(image, Backend::workspace_bytes(call.forward));
    Backend::Workspace sums(image, Backend::workspace_bytes(call));
    call.forward.workspace = workspace.data();
    call.sums = sums.data();
    Backend(image).run(call);
  }
  return {of_image, in_type_of(of_centers, centers), in_type_of(of_weights, weights), in_type_of(of_affine, affine),
          in_type_of(of_before, before ? *before : affine)};
}

inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tps_warp_backward(
    const Tensor& grad, const Tensor& image, const Tensor& centers, const Tensor& weights, const Tensor& affine,
    std::optional<Tensor> before, std::string padding_mode, bool align_corners, bool need_image, bool need_spline,
    bool need_centers) {
  return warp_gradients<false>(grad, image, centers, weights, affine, before, padding_mode, align_corners, need_image,
                               need_spline, need_centers);
}
// The image's gradient has the same bits each time, where that costs something.
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tps_warp_backward_repeatable(
    const Tensor& grad, const Tensor& image, const Tensor& centers, const Tensor& weights, const Tensor& affine,
    std::optional<Tensor> before, std::string padding_mode, bool align_corners, bool need_image, bool need_spline,
    bool need_centers) {
  return warp_gradients<true>(grad, image, centers, weights, affine, before, padding_mode, align_corners, need_image,
                              need_spline, need_centers);
}

}  // namespace entries
}  // namespace lmdis
