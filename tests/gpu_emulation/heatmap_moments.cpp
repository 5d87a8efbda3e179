// The kernels of heatmap_moments on NumPy arrays, launched as csrc/cuda/heatmap_moments.cu launches them.
#include "cuda/heatmap_moments.cuh"

#include "arrays.h"

namespace py = pybind11;
using namespace lmdis;
using gpu_emulation::Call;

static HeatmapMoments call_of(const Maps& logits, int over, int64_t count, double temperature, double eps,
                              bool align_corners, int64_t second) {
  HeatmapMoments call{};
  call.logits = logits;
  call.over = Over(over);
  call.count = count;
  call.temperature = temperature;
  call.eps = eps;
  call.align_corners = align_corners;
  call.second = second;
  return call;
}

static void forward(py::object logits, const std::string& dtype, int over, int64_t count, double temperature,
                    double eps, bool align_corners, int64_t second, py::object coords, py::object variance,
                    py::object mass) {
  Call buffers;
  HeatmapMoments call =
      call_of(buffers.input(logits, dtype, "logits"), over, count, temperature, eps, align_corners, second);
  call.coords = buffers.output(coords, "float32", "coords");
  call.variance = buffers.output(variance, "float32", "variance");
  call.mass = buffers.output(mass, "float32", "mass");
  call.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

static void backward(py::object grad_coords, py::object grad_variance, py::object grad_mass, py::object logits,
                     const std::string& dtype, int over, int64_t count, double temperature, double eps,
                     bool align_corners, int64_t second, py::object coords, py::object variance, py::object mass,
                     py::object grad) {
  Call buffers;
  HeatmapMomentsBackward call{};
  call.forward = call_of(buffers.input(logits, dtype, "logits"), over, count, temperature, eps, align_corners, second);
  float* const at = buffers.input(coords, "float32", "coords");
  float* const spread = buffers.input(variance, "float32", "variance");
  float* const masses = buffers.input(mass, "float32", "mass");
  const float* const of_coords = buffers.input(grad_coords, "float32", "grad_coords");
  const float* const of_variance = buffers.input(grad_variance, "float32", "grad_variance");
  const float* const of_mass = buffers.input(grad_mass, "float32", "grad_mass");
  call.forward.coords = at, call.forward.variance = spread, call.forward.mass = masses;
  call.grad_coords = of_coords, call.grad_variance = of_variance, call.grad_mass = of_mass;
  call.grad = buffers.output(grad, dtype, "grad");
  call.forward.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

PYBIND11_MODULE(heatmap_moments, module) {
  gpu_emulation::bind_emulator(module);
  module.def("forward", &forward);
  module.def("backward", &backward);
}
