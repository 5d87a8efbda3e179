// The kernels of landmark_pool and gaussian_pool on NumPy arrays, launched as csrc/cuda/landmark_pool.cu launches them.
#include "cuda/landmark_pool.cuh"

#include "arrays.h"

namespace py = pybind11;
using namespace lmdis;
using gpu_emulation::Call;

static LandmarkPool call_of(const Maps& features, const Maps& logits, bool over_pixels, double temperature,
                            double eps) {
  LandmarkPool call{};
  call.features = features;
  call.logits = logits;
  call.over_pixels = over_pixels;
  call.temperature = temperature;
  call.eps = eps;
  return call;
}

static void landmark_pool(py::object features, py::object logits, const std::string& dtype, bool over_pixels,
                          double temperature, double eps, py::object pooled, py::object mass) {
  Call buffers;
  LandmarkPool call = call_of(buffers.input(features, dtype, "features"), buffers.input(logits, dtype, "logits"),
                              over_pixels, temperature, eps);
  float* const to = buffers.output(pooled, "float32", "pooled");
  float* const masses = buffers.output(mass, "float32", "mass");
  call.pooled = to, call.mass = masses;
  call.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

static void landmark_pool_backward(py::object grad_pooled, py::object grad_mass, py::object features, py::object logits,
                                   const std::string& dtype, py::object pooled, py::object mass, bool over_pixels,
                                   double temperature, double eps, py::object grad_features, py::object grad_logits) {
  Call buffers;
  LandmarkPoolBackward call{};
  call.forward = call_of(buffers.input(features, dtype, "features"), buffers.input(logits, dtype, "logits"),
                         over_pixels, temperature, eps);
  float* const means = buffers.input(pooled, "float32", "pooled");
  float* const masses = buffers.input(mass, "float32", "mass");
  const float* const of_pooled = buffers.input(grad_pooled, "float32", "grad_pooled");
  const float* const of_mass = buffers.input(grad_mass, "float32", "grad_mass");
  call.forward.pooled = means, call.forward.mass = masses;
  call.grad_pooled = of_pooled, call.grad_mass = of_mass;
  call.need_features = !grad_features.is_none();
  call.need_logits = !grad_logits.is_none();
  if (call.need_features) call.grad_features = buffers.output(grad_features, dtype, "grad_features");
  if (call.need_logits) call.grad_logits = buffers.output(grad_logits, dtype, "grad_logits");
  call.forward.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

static GaussianPool call_of(Call& buffers, py::object features, const std::string& dtype, py::object coords,
                            py::object sigma, bool align_corners) {
  GaussianPool call{};
  call.features = buffers.input(features, dtype, "features");
  call.landmarks = coords.attr("shape").cast<py::tuple>()[1].cast<int64_t>();
  const float* const points = buffers.input(coords, "float32", "coords");
  const float* const widths = buffers.input(sigma, "float32", "sigma");
  call.coords = points, call.sigma = widths;
  call.align_corners = align_corners;
  return call;
}

static void gaussian_pool(py::object features, const std::string& dtype, py::object coords, py::object sigma,
                          bool align_corners, py::object pooled) {
  Call buffers;
  GaussianPool call = call_of(buffers, features, dtype, coords, sigma, align_corners);
  float* const to = buffers.output(pooled, "float32", "pooled");
  call.pooled = to;
  call.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

static void gaussian_pool_backward(py::object grad, py::object features, const std::string& dtype, py::object coords,
                                   py::object sigma, bool align_corners, py::object grad_features,
                                   py::object grad_coords, py::object grad_sigma) {
  Call buffers;
  GaussianPoolBackward call{};
  call.forward = call_of(buffers, features, dtype, coords, sigma, align_corners);
  const float* const upstream = buffers.input(grad, "float32", "grad");
  call.grad = upstream;
  call.need_features = !grad_features.is_none();
  call.need_landmarks = !grad_coords.is_none();
  if (call.need_features) call.grad_features = buffers.output(grad_features, dtype, "grad_features");
  float* const of_coords = buffers.output(grad_coords, "float32", "grad_coords");
  float* const of_sigma = buffers.output(grad_sigma, "float32", "grad_sigma");
  call.grad_coords = of_coords, call.grad_sigma = of_sigma;
  call.forward.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

PYBIND11_MODULE(landmark_pool, module) {
  gpu_emulation::bind_emulator(module);
  module.def("landmark_pool", &landmark_pool);
  module.def("landmark_pool_backward", &landmark_pool_backward);
  module.def("gaussian_pool", &gaussian_pool);
  module.def("gaussian_pool_backward", &gaussian_pool_backward);
}
