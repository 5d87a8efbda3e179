// The planted kernels, bound for test_emulator.py.
#include "arrays.h"
#include "planted.cuh"

namespace py = pybind11;
using namespace lmdis;
using gpu_emulation::Call;

template <bool barriers>
static void block_sums(py::object values, const std::string& dtype, py::object sums) {
  Call call;
  const auto from = call.input(values, dtype, "values");
  float* const to = call.output(sums, "float32", "sums");
  const int count = int(py::len(values));
  const int blocks = int(py::len(sums));
  const auto launch = [&](auto zero) {
    const decltype(zero)* typed = from;
    LM_LAUNCH((planted::block_sums<barriers, decltype(zero)>), blocks, 256, 0, Stream{}, typed, to, count);
  };
  if (dtype == "float32") launch(float{});
  if (dtype == "bfloat16") launch(BFloat16{});
  if (dtype == "float16") launch(Half{});
  call.finish();
}

PYBIND11_MODULE(planted, module) {
  gpu_emulation::bind_emulator(module);
  module.def("block_sums", &block_sums<true>);
  module.def("block_sums_wrong", &block_sums<false>);
}
