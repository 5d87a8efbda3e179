// The kernels of render_gaussians and splat_landmarks on NumPy arrays, launched as csrc/cuda/gaussian_splat.cu does.
#include "cuda/gaussian_splat.cuh"

#include <optional>

#include <pybind11/stl.h>

#include "arrays.h"

namespace py = pybind11;
using namespace lmdis;
using gpu_emulation::Call;
using Numbers = std::vector<double>;

static GaussianSplat call_of(Call& buffers, py::object coords, py::object features, const Numbers& sigma,
                             const Numbers& gain, const std::optional<Numbers>& background, int normalize,
                             bool align_corners) {
  GaussianSplat call{};
  call.normalize = Normalize(normalize);
  call.align_corners = align_corners;
  call.landmarks = coords.attr("shape").cast<py::tuple>()[1].cast<int64_t>();
  call.levels = int64_t(sigma.size());
  call.features = features.is_none() ? 0 : features.attr("shape").cast<py::tuple>()[2].cast<int64_t>();
  call.sigma = sigma.data(), call.gain = gain.data();
  call.background = background ? background->data() : nullptr;
  const float* const points = buffers.input(coords, "float32", "coords");
  const float* const vectors = buffers.input(features, "float32", "features");
  call.coords = points, call.vectors = vectors;
  return call;
}

static void forward(py::object coords, py::object features, const Numbers& sigma, const Numbers& gain,
                    const std::optional<Numbers>& background, int normalize, bool align_corners, py::object maps,
                    const std::string& dtype) {
  Call buffers;
  GaussianSplat call = call_of(buffers, coords, features, sigma, gain, background, normalize, align_corners);
  call.maps = buffers.output(maps, dtype, "maps");
  run(call, Stream{});
  buffers.finish();
}

static void backward(py::object grad, const std::string& dtype, py::object coords, py::object features,
                     const Numbers& sigma, const Numbers& gain, const std::optional<Numbers>& background, int normalize,
                     bool align_corners, py::object grad_coords, py::object grad_features) {
  Call buffers;
  GaussianSplatBackward call{};
  call.forward = call_of(buffers, coords, features, sigma, gain, background, normalize, align_corners);
  call.forward.maps = buffers.input(grad, dtype, "grad");
  call.need_coords = !grad_coords.is_none();
  call.need_vectors = !grad_features.is_none();
  float* const of_coords = buffers.output(grad_coords, "float32", "grad_coords");
  float* const of_features = buffers.output(grad_features, "float32", "grad_features");
  call.grad_coords = of_coords, call.grad_vectors = of_features;
  call.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

PYBIND11_MODULE(gaussian_splat, module) {
  gpu_emulation::bind_emulator(module);
  module.def("forward", &forward);
  module.def("backward", &backward);
}
