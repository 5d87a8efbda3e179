// Between torch's stable Tensor and the vector code: checks and views. Entries include it, vector code does not.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "maps.h"

namespace lmdis {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// "(2, 11, 96)"
std::string words(const std::vector<int64_t>& sizes);
// "(2, 11, 96) torch.float32"
std::string described(const Tensor& tensor);

// Refuses what the vector code must not see; the words are those of lmdis_fast/ops/checks.py.
void check_cpu(const char* op, const char* name, const Tensor& tensor);
void check_floating(const char* op, const char* name, const Tensor& tensor, const char* form, int64_t rank);
void check_maps(const char* op, const char* name, const Tensor& tensor, const char* form);
void check_shape(const char* op, const char* name, const Tensor& tensor, const std::vector<int64_t>& shape,
                 ScalarType dtype);
void check_positive(const char* op, const char* name, double value);
void check_not_negative(const char* op, const char* name, double value);

Dtype dtype_of(const Tensor& tensor);
// float64 if any of the tensors is, otherwise float32.
ScalarType arithmetic_type(std::initializer_list<const Tensor*> tensors);

// Strides as they are; the vector code takes any.
Maps maps_of(const Tensor& tensor);

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype);
// In the layout that empty_like gives, in another dtype.
Tensor empty_like_in(const Tensor& like, ScalarType dtype);
Tensor cast(const Tensor& tensor, ScalarType dtype);
// Stands for a gradient that was not asked for.
Tensor absent(const Tensor& like);

// Contiguous and of the dtype: itself, or a copy; these tensors are small.
Tensor dense(const Tensor& tensor, ScalarType dtype);
std::optional<Tensor> dense(const std::optional<Tensor>& tensor, ScalarType dtype);
inline const void* pointer(const std::optional<Tensor>& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

}  // namespace lmdis
