// The kernels of tps_warp on NumPy arrays, launched as csrc/cuda/tps_warp.cu launches them.
#include "cuda/tps_warp.cuh"

#include "arrays.h"

namespace py = pybind11;
using namespace lmdis;
using gpu_emulation::Call;

// A spline's tensors, all of one dtype.
struct Spline {
  py::object centers, weights, affine, before;
  std::string dtype;
};

static TpsWarp call_of(Call& buffers, const Maps& image, const Maps& out, const Spline& spline, bool zeros,
                       bool align_corners) {
  TpsWarp call{};
  call.image = image;
  call.out = out;
  call.centers = buffers.input(spline.centers, spline.dtype, "centers");
  call.weights = buffers.input(spline.weights, spline.dtype, "weights");
  call.affine = buffers.input(spline.affine, spline.dtype, "affine");
  call.before = buffers.input(spline.before, spline.dtype, "before");
  call.exact = spline.dtype == "float64";
  call.shared = spline.centers.attr("ndim").cast<int>() == 2;
  call.points = spline.weights.attr("shape").cast<py::tuple>()[1].cast<int64_t>();
  call.zeros = zeros;
  call.align_corners = align_corners;
  return call;
}

static void tps_warp(py::object image, const std::string& dtype, py::object centers, py::object weights,
                     py::object affine, py::object before, const std::string& spline_dtype, bool zeros,
                     bool align_corners, py::object out) {
  Call buffers;
  TpsWarp call = call_of(buffers, buffers.input(image, dtype, "image"), buffers.output(out, dtype, "out"),
                         {centers, weights, affine, before, spline_dtype}, zeros, align_corners);
  call.workspace = buffers.workspace(size_t(workspace_bytes(call)));
  run(call, Stream{});
  buffers.finish();
}

// Gradients that are None are not asked for; the image's is zero at first if it is float.
static void tps_warp_backward(py::object grad, py::object image, const std::string& dtype, py::object centers,
                              py::object weights, py::object affine, py::object before, const std::string& spline_dtype,
                              bool zeros, bool align_corners, bool repeatable, py::object grad_image,
                              py::object grad_centers, py::object grad_weights, py::object grad_affine,
                              py::object grad_before) {
  Call buffers;
  TpsWarpBackward call{};
  call.forward = call_of(buffers, buffers.input(image, dtype, "image"), buffers.input(grad, dtype, "grad"),
                         {centers, weights, affine, before, spline_dtype}, zeros, align_corners);
  call.need_image = !grad_image.is_none();
  call.repeatable = repeatable;
  if (call.need_image)
    call.grad_image = dtype == "float32" && !repeatable ? buffers.in_place(grad_image, dtype, "grad_image")
                                                        : buffers.output(grad_image, dtype, "grad_image");
  call.need_spline = !grad_weights.is_none();
  call.need_centers = !grad_centers.is_none();
  call.grad_centers = buffers.output(grad_centers, spline_dtype, "grad_centers");
  call.grad_weights = buffers.output(grad_weights, spline_dtype, "grad_weights");
  call.grad_affine = buffers.output(grad_affine, spline_dtype, "grad_affine");
  call.grad_before = buffers.output(grad_before, spline_dtype, "grad_before");
  call.forward.workspace = buffers.workspace(size_t(workspace_bytes(call.forward)));
  call.sums = buffers.workspace(size_t(workspace_bytes(call)), "sums");
  run(call, Stream{});
  buffers.finish();
}

PYBIND11_MODULE(tps_warp, module) {
  gpu_emulation::bind_emulator(module);
  module.def("tps_warp", &tps_warp);
  module.def("tps_warp_backward", &tps_warp_backward);
}
