// Between torch's stable Tensor and the kernels: checks and views. Entries include it, kernels do not. The file that
// includes an entry has named its backend before: cpu/backend.h or cuda/backend.h.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "../maps.h"

namespace lmdis {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "torch.float32";
    case ScalarType::Double: return "torch.float64";
    case ScalarType::BFloat16: return "torch.bfloat16";
    case ScalarType::Half: return "torch.float16";
    case ScalarType::Int: return "torch.int32";
    case ScalarType::Long: return "torch.int64";
    case ScalarType::Byte: return "torch.uint8";
    case ScalarType::Bool: return "torch.bool";
    default: return "another dtype";
  }
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
         type == ScalarType::Half;
}

// "(2, 11, 96)"
inline std::string words(const std::vector<int64_t>& sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

// "(2, 11, 96) torch.float32"
inline std::string described(const Tensor& tensor) {
  return words(shape_of(tensor)) + " " + name_of(tensor.scalar_type());
}

// What follows refuses what kernels must not see; the words are those of lmdis_fast/ops/checks.py.
inline void check_device(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.defined() && Backend::owns(tensor), op, ": ", name, " must be a ", Backend::device, " tensor");
}

// Kernels run on one device. Absent tensors are null.
inline void check_together(const char* op, const Tensor& first, std::initializer_list<const Tensor*> others) {
  const auto device = first.get_device_index();
  for (const Tensor* other : others)
    STD_TORCH_CHECK(!other || other->get_device_index() == device, op, ": tensors must be on one device, got ",
                    Backend::device, ":", device, " and ", Backend::device, ":", other->get_device_index());
}
inline const Tensor* address(const std::optional<Tensor>& tensor) { return tensor ? &*tensor : nullptr; }

inline void check_floating(const char* op, const char* name, const Tensor& tensor, const char* form, int64_t rank) {
  check_device(op, name, tensor);
  STD_TORCH_CHECK(is_floating(tensor.scalar_type()) && Backend::computes(tensor.scalar_type()) && tensor.dim() == rank,
                  op, ": ", name, " must be ", form, " ", Backend::floating, ", got ", described(tensor));
}

inline void check_maps(const char* op, const char* name, const Tensor& tensor, const char* form) {
  check_floating(op, name, tensor, form, 4);
  constexpr int64_t most = int64_t(1) << 30;  // per side: kernels count columns and channels in 32 bits
  const bool sound = tensor.size(1) >= 1 && tensor.size(2) >= 1 && tensor.size(3) >= 1 && tensor.size(1) < most &&
                     tensor.size(2) < most && tensor.size(3) < most;
  STD_TORCH_CHECK(sound, op, ": ", name, " must be ", form, " with at least one channel and one pixel, got ",
                  described(tensor));
}

inline void check_shape(const char* op, const char* name, const Tensor& tensor, const std::vector<int64_t>& shape,
                        ScalarType dtype) {
  check_device(op, name, tensor);
  STD_TORCH_CHECK(shape_of(tensor) == shape && tensor.scalar_type() == dtype, op, ": ", name, " must be ", words(shape),
                  " ", name_of(dtype), ", got ", described(tensor));
}

inline void check_positive(const char* op, const char* name, double value) {
  STD_TORCH_CHECK(value > 0 && std::isfinite(value), op, ": ", name, " must be positive and finite, got ", value);
}

inline void check_not_negative(const char* op, const char* name, double value) {
  STD_TORCH_CHECK(value >= 0 && std::isfinite(value), op, ": ", name, " must be at least 0 and finite, got ", value);
}

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: return Dtype::float32;
  }
}

// float64 if any of the tensors is, otherwise float32.
inline ScalarType arithmetic_type(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors)
    if (tensor->scalar_type() == ScalarType::Double) return ScalarType::Double;
  return ScalarType::Float;
}

// Strides as they are; kernels take any.
inline Maps maps_of(const Tensor& t) {
  return {t.data_ptr(), dtype_of(t), t.size(0),   t.size(1),   t.size(2),
          t.size(3),    t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

inline Tensor cast(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// In the layout that empty_like gives, in another dtype.
inline Tensor empty_like_in(const Tensor& like, ScalarType dtype) {
  return cast(torch::stable::empty_like(like), dtype);
}

inline bool is_channels_last(const Tensor& t) {
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// In the arithmetic type where that is float64, and in one of the two dense layouts: itself, or a copy.
inline Tensor dense_maps(const Tensor& t, ScalarType type) {
  const Tensor cast_to = type == ScalarType::Double ? cast(t, type) : t;
  return is_channels_last(cast_to) ? cast_to : torch::stable::contiguous(cast_to);
}

// Stands for a gradient that was not asked for.
inline Tensor absent(const Tensor& like) { return empty(like, {0}, like.scalar_type()); }

// Contiguous and of the dtype: itself, or a copy; these tensors are small.
inline Tensor dense(const Tensor& tensor, ScalarType dtype) { return torch::stable::contiguous(cast(tensor, dtype)); }

inline std::optional<Tensor> dense(const std::optional<Tensor>& tensor, ScalarType dtype) {
  return tensor ? std::optional<Tensor>(dense(*tensor, dtype)) : std::nullopt;
}

inline const void* pointer(const std::optional<Tensor>& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

// Gives a call memory to work in and runs it where the tensor is. What it needs depends on all that it holds, above all
// on the gradients asked for: so nothing is set after this.
template <class Call>
void run_with_workspace(const Tensor& like, Call& call) {
  Backend::Workspace workspace(like, Backend::workspace_bytes(call));
  if constexpr (requires { call.workspace; })
    call.workspace = workspace.data();
  else
    call.forward.workspace = workspace.data();
  Backend(like).run(call);
}

}  // namespace lmdis
