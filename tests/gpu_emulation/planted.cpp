// The planted kernels, bound for test_emulator.py.
#include <pybind11/stl.h>

#include "arrays.h"
#include "planted.cuh"

namespace py = pybind11;
using namespace lmdis;
using gpu_emulation::Call;

template <bool right>
static void block_sums(py::object values, const std::string& dtype, py::object sums) {
  Call call;
  const auto from = call.input(values, dtype, "values");
  float* const to = call.output(sums, "float32", "sums");
  const int count = int(py::len(values)), blocks = int(py::len(sums));
  const auto launch = [&](auto zero) {
    using T = decltype(zero);
    const T* const typed = from;
    LM_LAUNCH((planted::block_sums<right, T>), blocks, 256, 0, Stream{}, typed, to, count);
  };
  if (dtype == "float32") launch(float{});
  if (dtype == "bfloat16") launch(BFloat16{});
  if (dtype == "float16") launch(Half{});
  call.finish();
}

using Kernel = void (*)(const float*, float*, int);
static void bind(py::module_& module, const std::string& name, Kernel kernel) {
  module.def(name.c_str(), [kernel](py::object values, py::object results, bool adds, int threads) {
    Call call;
    const float* const from = call.input(values, "float32", "values");
    float* const to = adds ? call.in_place(results, "float32", "results") : call.output(results, "float32", "results");
    const int count = int(py::len(values)), blocks = (count + threads - 1) / threads;
    LM_LAUNCH(kernel, blocks, threads, threads * sizeof(float), Stream{}, from, to, count);
    call.finish();
  });
}
static void fixed_sum(py::object values, py::object results) {
  Call call;
  const float* const from = call.input(values, "float32", "values");
  float* const to = call.output(results, "float32", "results");
  auto* const sum = static_cast<unsigned long long*>(call.zeros(8, "sum"));
  const int count = int(py::len(values));
  LM_LAUNCH(planted::fixed_sum, (count + 63) / 64, 64, 0, Stream{}, from, sum, count);
  LM_LAUNCH(planted::float_of_fixed, 1, 1, 0, Stream{}, sum, to);
  call.finish();
}
static void largest(py::object values, py::object result) {
  Call call;
  const float* const from = call.input(values, "float32", "values");
  unsigned* const to = call.in_place(result, "uint32", "result");
  const int count = int(py::len(values));
  LM_LAUNCH(planted::largest, (count + 63) / 64, 64, 0, Stream{}, from, to, count);
  call.finish();
}
static void warp_results(py::object values, py::object results, int width, int by) {
  Call call;
  const int* const from = call.input(values, "int32", "values");
  int* const to = call.output(results, "int32", "results");
  LM_LAUNCH(planted::warp_results, 1, 32, 0, Stream{}, from, to, width, by);
  call.finish();
}
using Sizes = std::array<unsigned, 3>;
static void numbers(py::object results, Sizes grid, Sizes threads, size_t dynamic_shared) {
  Call call;
  int* const to = call.output(results, "int32", "results");
  LM_LAUNCH(planted::numbers, dim3(grid[0], grid[1], grid[2]), dim3(threads[0], threads[1], threads[2]), dynamic_shared,
            Stream{}, to);
  call.finish();
}

// Maps with any strides, copied element by element; `gaps` writes where the strides leave room instead.
LM_KERNEL(64, 1) copy_maps(Maps from, Maps to, bool gaps) {
  const int64_t i = blockIdx.x * 64 + threadIdx.x;
  if (i >= from.n * from.c * from.h * from.w) return;
  const int64_t w = i % from.w, h = i / from.w % from.h, c = i / (from.w * from.h) % from.c;
  const int64_t n = i / (from.w * from.h * from.c);
  const int64_t at = n * from.stride_n + c * from.stride_c + h * from.stride_h + w * from.stride_w;
  const int64_t target = n * to.stride_n + c * to.stride_c + h * to.stride_h + w * to.stride_w + (gaps ? 1 : 0);
  store(static_cast<BFloat16*>(to.data) + target, load(static_cast<const BFloat16*>(from.data) + at));
}
static void copy(py::object from, py::object to, bool gaps) {
  Call call;
  const Maps input = call.input(from, "bfloat16", "from"), output = call.output(to, "bfloat16", "to");
  const int count = int(input.n * input.c * input.h * input.w);
  if (count) LM_LAUNCH(copy_maps, (count + 63) / 64, 64, 0, Stream{}, input, output, gaps);
  call.finish();
}

template <class T>
static void widen(py::array_t<uint16_t> bits, py::array_t<float> values) {
  for (py::ssize_t i = 0; i < bits.size(); ++i) values.mutable_at(i) = to_float(T{bits.at(i)});
}
template <class T>
static void narrow(py::array_t<float> values, py::array_t<uint16_t> bits) {
  for (py::ssize_t i = 0; i < bits.size(); ++i) bits.mutable_at(i) = from_float<T>(values.at(i)).bits;
}

PYBIND11_MODULE(planted, module) {
  gpu_emulation::bind_emulator(module);
  module.def("block_sums", &block_sums<true>);
  module.def("block_sums_wrong", &block_sums<false>);
#define BIND(kernel)                            \
  bind(module, #kernel, planted::kernel<true>); \
  bind(module, #kernel "_wrong", planted::kernel<false>);
  BIND(ended_before_barrier)
  BIND(two_barriers)
  BIND(barrier_and_shuffle)
  BIND(shuffle_outside_mask)
  BIND(shuffle_of_ended_lane)
  BIND(mask_without_caller)
  BIND(unlike_masks)
  BIND(unlike_operations)
  BIND(lanes_beyond_block)
  BIND(unwritten_shared)
  BIND(shared_of_another_block)
  BIND(unwritten_dynamic)
  BIND(unwritten_global)
  BIND(unwritten_output)
  BIND(read_beyond)
  BIND(read_before)
  BIND(write_beyond)
  BIND(shared_beyond)
  BIND(dynamic_beyond)
  BIND(misaligned_vector)
  BIND(misaligned_shared)
  BIND(race_in_warp)
  BIND(race_past_shuffle)
  BIND(race_between_groups)
  BIND(race_between_warps)
  BIND(write_after_read)
  BIND(two_writers)
  BIND(race_in_global)
  BIND(blocks_read_blocks)
  BIND(blocks_write_same)
  BIND(input_written)
  BIND(direct_access)
  BIND(too_much_shared)
  BIND(atomic_and_plain)
#undef BIND
  bind(module, "float_sum", planted::float_sum);
  bind(module, "shared_kinds", planted::shared_kinds);
  module.def("fixed_sum", &fixed_sum);
  module.def("largest", &largest);
  module.def("warp_results", &warp_results);
  module.def("numbers", &numbers);
  module.def("copy", &copy);
  module.def("advance_time", [] { gpu_emulation::now.time = 1u << 30; });
  module.def("bfloat16_to_float", &widen<BFloat16>);
  module.def("float16_to_float", &widen<Half>);
  module.def("float_to_bfloat16", &narrow<BFloat16>);
  module.def("float_to_float16", &narrow<Half>);
}
