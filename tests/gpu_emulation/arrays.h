// NumPy arrays as the memory of an emulated GPU. A binding makes one Call, turns its arrays into buffers, launches and
// finishes; see planted.cpp.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../../csrc/maps.h"
#include "gpu_emulation.h"

namespace gpu_emulation {

namespace py = pybind11;

inline size_t size_of(const std::string& dtype) {
  if (dtype == "float64" || dtype == "int64" || dtype == "uint64") return 8;
  if (dtype == "float32" || dtype == "int32" || dtype == "uint32") return 4;
  if (dtype == "bfloat16" || dtype == "float16") return 2;
  if (dtype == "uint8" || dtype == "bool") return 1;
  throw py::value_error("no such dtype: " + dtype);
}

// A tensor of the device: Maps for a kernel where it has four dimensions, an address where it is contiguous.
class Memory {
 public:
  Memory() = default;  // null
  Memory(void* data, std::string dtype, std::vector<int64_t> sizes, std::vector<int64_t> strides)
      : data_(data), dtype_(std::move(dtype)), sizes_(std::move(sizes)), strides_(std::move(strides)) {}

  operator lmdis::Maps() const {
    if (sizes_.size() != 4) throw py::value_error("maps have four dimensions");
    return {data_,     map_dtype(), sizes_[0],   sizes_[1],   sizes_[2],
            sizes_[3], strides_[0], strides_[1], strides_[2], strides_[3]};
  }
  template <class T>
  operator T*() const {
    if (std::find(sizes_.begin(), sizes_.end(), 0) != sizes_.end()) return static_cast<T*>(data_);
    int64_t stride = 1;
    for (size_t i = sizes_.size(); i-- > 0; stride *= sizes_[i]) {
      if (sizes_[i] > 1 && strides_[i] != stride) throw py::value_error("an array has to be contiguous");
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::string dtype_ = "float32";
  std::vector<int64_t> sizes_, strides_;

  lmdis::Dtype map_dtype() const {
    if (dtype_ == "float32") return lmdis::Dtype::float32;
    if (dtype_ == "float64") return lmdis::Dtype::float64;
    if (dtype_ == "bfloat16") return lmdis::Dtype::bfloat16;
    if (dtype_ == "float16") return lmdis::Dtype::float16;
    throw py::value_error("no dtype of maps: " + dtype_);
  }
};

// The buffers of one call. Each array is copied to the device, with its strides; outputs come back by finish(). None is
// a null pointer.
class Call {
 public:
  Call() { restart_time(); }

  Memory input(const py::object& array, const std::string& dtype, const std::string& name) {
    return add(array, dtype, name, Role::input);
  }
  // Never written, until a launch does.
  Memory output(const py::object& array, const std::string& dtype, const std::string& name) {
    return add(array, dtype, name, Role::output);
  }
  // Read and written: results are added to what the array holds.
  Memory in_place(const py::object& array, const std::string& dtype, const std::string& name) {
    return add(array, dtype, name, Role::in_place);
  }
  void* workspace(size_t bytes, const std::string& name = "workspace") {
    return reinterpret_cast<void*>(buffers_.add(name, Role::workspace, (bytes + 3) / 4 * 4, 2).address);
  }
  // As after cudaMemset.
  void* zeros(size_t bytes, const std::string& name) {
    return reinterpret_cast<void*>(buffers_.add(name, Role::zeros, (bytes + 3) / 4 * 4, 2).address);
  }

  // Checks that every element of every output has been written, and gives them to Python.
  void finish() {
    buffers_.require_all_written();
    for (const Copy& copy : copies_) {
      for_each_element(copy.sizes, copy.strides, [&](ptrdiff_t offset) {
        memcpy(copy.host + offset, copy.buffer->data.data() + offset - copy.lowest, copy.element);
      });
    }
  }

 private:
  struct Copy {
    py::object keep;
    char* host;
    Buffer* buffer;
    ptrdiff_t lowest;
    size_t element;
    std::vector<ptrdiff_t> sizes, strides;  // in bytes
  };
  Buffers buffers_;
  std::vector<Copy> copies_;

  // visit(offset in bytes) for every element.
  template <class Visit>
  static void for_each_element(const std::vector<ptrdiff_t>& sizes, const std::vector<ptrdiff_t>& strides, Visit visit,
                               size_t dimension = 0, ptrdiff_t offset = 0) {
    if (dimension == sizes.size()) return visit(offset);
    for (ptrdiff_t i = 0; i < sizes[dimension]; ++i)
      for_each_element(sizes, strides, visit, dimension + 1, offset + i * strides[dimension]);
  }

  Memory add(const py::object& object, const std::string& dtype, const std::string& name, Role role) {
    if (object.is_none()) return {};
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (!py::isinstance<py::array>(object)) throw py::type_error(name + " is no array");
    const size_t element = size_of(dtype);
    if (size_t(array.itemsize()) != element) throw py::value_error(name + " is no array of " + dtype);
    const std::vector<ptrdiff_t> sizes(array.shape(), array.shape() + array.ndim());
    const std::vector<ptrdiff_t> strides(array.strides(), array.strides() + array.ndim());
    ptrdiff_t lowest = 0, end = ptrdiff_t(array.size() ? element : 0);
    for (size_t i = 0; i < sizes.size() && end; ++i) (strides[i] < 0 ? lowest : end) += (sizes[i] - 1) * strides[i];
    char* const host = static_cast<char*>(const_cast<void*>(array.data()));
    const auto misalignment = unsigned(reinterpret_cast<uintptr_t>(host + lowest) % 16);
    Buffer& buffer = buffers_.add(name, role, size_t(end - lowest), unsigned(__builtin_ctzll(element)), misalignment);
    for (Shadow& shadow : buffer.shadow) shadow.flags = 0;
    for_each_element(sizes, strides, [&](ptrdiff_t offset) {
      if (size_t(offset - lowest) % element) throw py::value_error(name + " has strides that split its elements");
      Shadow& shadow = buffer.shadow[size_t(offset - lowest) / element];
      if (role == Role::output && shadow.flags) throw py::value_error(name + " holds an element twice");
      shadow.flags = belongs;
      if (role != Role::output) memcpy(buffer.data.data() + offset - lowest, host + offset, element);
    });
    if (role == Role::output || role == Role::in_place) {
      if (!array.writeable()) throw py::value_error(name + " cannot be written");
      copies_.push_back({object, host, &buffer, lowest, element, sizes, strides});
    }
    std::vector<int64_t> in_elements;
    for (const ptrdiff_t stride : strides) in_elements.push_back(stride / ptrdiff_t(element));
    return {
        reinterpret_cast<void*>(buffer.address - uintptr_t(lowest)), dtype, {sizes.begin(), sizes.end()}, in_elements};
  }
};

// What every module of emulated kernels has for emulated.py: the order of threads and blocks, and the class of errors.
inline void bind_emulator(py::module_& module) {
  static py::handle raised;
  module.def("raise_as", [](const py::object& cls) { raised = py::object(cls).release(); });
  module.def("take_launches", [] {
    py::list found;
    for (const Launched& one : launched)
      found.append(py::make_tuple(one.kernel, py::make_tuple(one.grid.x, one.grid.y, one.grid.z)));
    launched.clear();
    return found;
  });
  module.def("set_order", [](const std::string& mode, uint64_t seed) {
    if (mode != "forward" && mode != "reverse" && mode != "random") throw py::value_error("no such order: " + mode);
    order().mode = mode == "forward"   ? Order::Mode::forward
                   : mode == "reverse" ? Order::Mode::reverse
                                       : Order::Mode::random;
    order().seed = seed;
  });
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      if (!raised) return PyErr_SetString(PyExc_RuntimeError, error.what());
      PyErr_SetObject(raised.ptr(), raised(error.kind, error.what()).ptr());
    }
  });
}

}  // namespace gpu_emulation
