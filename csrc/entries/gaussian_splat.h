// render_gaussians, splat_landmarks and their backwards as torch operators; see lmdis_fast/ops/gaussian_splat.py.
#pragma once

#include <tuple>

#include "../gaussian_splat.h"
#include "tensors.h"

namespace lmdis {
namespace entries {

using Numbers = std::vector<double>;

inline void check_numbers(const char* op, const char* name, const Numbers& numbers, size_t levels) {
  STD_TORCH_CHECK(numbers.size() == levels && levels > 0, op, ": ", name, " must be one number for each of ", levels,
                  " levels, got ", numbers.size());
  for (double number : numbers) check_positive(op, name, number);
}

inline Normalize normalize_of(const char* op, const std::string& word, bool background) {
  STD_TORCH_CHECK(word == "peak" || word == "sum" || word == "channels", op,
                  ": normalize must be one of 'peak', 'sum', 'channels', got '", word, "'");
  STD_TORCH_CHECK(background == (word == "channels"), op,
                  ": background must be given with normalize='channels' and only there");
  return word == "peak" ? Normalize::peak : word == "sum" ? Normalize::sum : Normalize::channels;
}

inline void check_points(const char* op, const Tensor& coords) {
  check_floating(op, "coords", coords, "(N, K, 2)", 3);
  STD_TORCH_CHECK(coords.size(1) >= 1 && coords.size(2) == 2, op,
                  ": coords must be (N, K, 2) floating with at least one point, got ", described(coords));
}

// The arguments of a call; the tensors and numbers that it points to have to stay alive.
inline GaussianSplat call_of(const char* op, const Tensor& coords, const Numbers& sigma, const Numbers& gain,
                             const Numbers* background, bool align_corners) {
  check_numbers(op, "sigma", sigma, sigma.size());
  check_numbers(op, "gain", gain, sigma.size());
  if (background) check_numbers(op, "background", *background, sigma.size());
  GaussianSplat call{};
  call.align_corners = align_corners;
  call.landmarks = coords.size(1);
  call.levels = int64_t(sigma.size());
  call.sigma = sigma.data();
  call.gain = gain.data();
  call.background = background ? background->data() : nullptr;
  call.coords = coords.data_ptr();
  return call;
}

inline std::vector<int64_t> checked_size(const char* op, const std::vector<int64_t>& size) {
  constexpr int64_t most = int64_t(1) << 30;
  const bool sound = size.size() == 2 && size[0] >= 1 && size[1] >= 1 && size[0] < most && size[1] < most;
  STD_TORCH_CHECK(sound, op, ": size must be (H, W) in whole pixels, at least 1 each, got ", words(size));
  return size;
}

inline Tensor render_gaussians(const Tensor& coords, std::vector<int64_t> size, Numbers sigma, Numbers gain,
                               std::optional<Numbers> background, std::string normalize, bool align_corners) {
  const char* op = "render_gaussians";
  check_points(op, coords);
  checked_size(op, size);
  const Tensor points = dense(coords, arithmetic_type({&coords}));
  GaussianSplat call = call_of(op, points, sigma, gain, background ? &*background : nullptr, align_corners);
  call.normalize = normalize_of(op, normalize, background.has_value());
  const int64_t n = coords.size(0), channels = GaussianSplat::channels(call);
  Tensor maps = empty(coords, {n, call.levels, channels, size[0], size[1]}, coords.scalar_type());
  call.maps = maps_of(torch::stable::view(maps, {n, call.levels * channels, size[0], size[1]}));
  Backend(coords).run(call);
  return maps;
}

inline Tensor render_gaussians_backward(const Tensor& grad, const Tensor& coords, Numbers sigma, Numbers gain,
                                        std::optional<Numbers> background, std::string normalize, bool align_corners) {
  const char* op = "render_gaussians";
  check_points(op, coords);
  const ScalarType type = arithmetic_type({&coords});
  const Tensor points = dense(coords, type);
  GaussianSplatBackward call{};
  call.forward = call_of(op, points, sigma, gain, background ? &*background : nullptr, align_corners);
  call.forward.normalize = normalize_of(op, normalize, background.has_value());
  const int64_t n = coords.size(0), levels = call.forward.levels, channels = GaussianSplat::channels(call.forward);
  check_floating(op, "grad", grad, "(N, L, K, H, W)", 5);
  const bool fits =
      grad.size(0) == n && grad.size(1) == levels && grad.size(2) == channels && grad.size(3) >= 1 && grad.size(4) >= 1;
  STD_TORCH_CHECK(fits, op, ": grad must be (", n, ", ", levels, ", ", channels, ", H, W), got ", described(grad));
  check_together(op, coords, {&grad});
  // Levels and channels are one dimension to the kernel; a gradient whose strides forbid that is copied.
  const Tensor upstream = cast(grad, coords.scalar_type());
  const Tensor flat = torch::stable::reshape(upstream, {n, levels * channels, grad.size(3), grad.size(4)});
  call.forward.maps = maps_of(flat);
  Tensor of_coords = empty(coords, {n, coords.size(1), 2}, type);
  call.need_coords = true;
  call.grad_coords = of_coords.mutable_data_ptr();
  run_with_workspace(coords, call);
  return cast(of_coords, coords.scalar_type());
}

inline void check_vectors(const Tensor& coords, const Tensor& features) {
  check_floating("splat_landmarks", "features", features, "(N, K+1, S)", 3);
  const bool fits =
      features.size(0) == coords.size(0) && features.size(1) == coords.size(1) + 1 && features.size(2) >= 1;
  STD_TORCH_CHECK(fits, "splat_landmarks: features must be (N, K+1, S) for coords ", described(coords), ", got ",
                  described(features));
  check_together("splat_landmarks", coords, {&features});
}

// Maps are made in the features' dtype, or in float64 where only the coordinates ask for it.
inline ScalarType maps_type(const Tensor& features, ScalarType arithmetic) {
  return arithmetic == ScalarType::Double ? arithmetic : features.scalar_type();
}

inline Tensor splat_landmarks(const Tensor& coords, const Tensor& features, std::vector<int64_t> size, Numbers sigma,
                              Numbers gain, Numbers background, bool align_corners) {
  const char* op = "splat_landmarks";
  check_points(op, coords);
  check_vectors(coords, features);
  checked_size(op, size);
  const ScalarType type = arithmetic_type({&coords, &features});
  const Tensor points = dense(coords, type), vectors = dense(features, type);
  GaussianSplat call = call_of(op, points, sigma, gain, &background, align_corners);
  call.normalize = Normalize::channels;
  call.features = features.size(2);
  call.vectors = vectors.data_ptr();
  const int64_t planes = call.levels * (features.size(1) + features.size(2));
  Tensor maps = empty(features, {coords.size(0), planes, size[0], size[1]}, maps_type(features, type));
  call.maps = maps_of(maps);
  Backend(coords).run(call);
  return cast(maps, features.scalar_type());
}

inline std::tuple<Tensor, Tensor> splat_landmarks_backward(const Tensor& grad, const Tensor& coords,
                                                           const Tensor& features, Numbers sigma, Numbers gain,
                                                           Numbers background, bool align_corners, bool need_coords,
                                                           bool need_features) {
  const char* op = "splat_landmarks";
  check_points(op, coords);
  check_vectors(coords, features);
  const ScalarType type = arithmetic_type({&coords, &features});
  const Tensor points = dense(coords, type), vectors = dense(features, type);
  GaussianSplatBackward call{};
  call.forward = call_of(op, points, sigma, gain, &background, align_corners);
  call.forward.normalize = Normalize::channels;
  call.forward.features = features.size(2);
  call.forward.vectors = vectors.data_ptr();
  check_maps(op, "grad", grad, "(N, L (K+1+S), H, W)");
  STD_TORCH_CHECK(
      grad.size(0) == coords.size(0) && grad.size(1) == call.forward.levels * (features.size(1) + features.size(2)), op,
      ": grad must be (N, L (K+1+S), H, W) for features ", described(features), ", got ", described(grad));
  check_together(op, coords, {&grad});
  const Tensor upstream = cast(grad, maps_type(features, type));
  call.forward.maps = maps_of(upstream);
  Tensor of_coords = need_coords ? empty(coords, {coords.size(0), coords.size(1), 2}, type) : absent(coords);
  Tensor of_features =
      need_features ? empty(features, {features.size(0), features.size(1), features.size(2)}, type) : absent(features);
  call.need_coords = need_coords;
  call.need_vectors = need_features;
  call.grad_coords = need_coords ? of_coords.mutable_data_ptr() : nullptr;
  call.grad_vectors = need_features ? of_features.mutable_data_ptr() : nullptr;
  if (need_coords || need_features) run_with_workspace(coords, call);
  return {cast(of_coords, coords.scalar_type()), cast(of_features, features.scalar_type())};
}

}  // namespace entries
}  // namespace lmdis
