// An NVIDIA GPU as the operators' entries see it: which tensors it takes, memory to work in, what runs a call.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace lmdis {

class Backend {
 public:
  // For a call whose tensors are where this one is: its device, and torch's current stream there.
  explicit Backend(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  static constexpr const char* device = "CUDA";
  static constexpr const char* floating = "float32, bfloat16 or float16";
  static bool owns(const torch::stable::Tensor& tensor) { return tensor.is_cuda(); }
  static bool computes(torch::headeronly::ScalarType type) { return type != torch::headeronly::ScalarType::Double; }

  // Torch's own memory, so that a CUDA graph can hold a call.
  class Workspace {
   public:
    Workspace(const torch::stable::Tensor& like, int64_t bytes)
        : bytes_(torch::stable::new_empty(like, {bytes}, torch::headeronly::ScalarType::Byte)) {}
    void* data() { return bytes_.mutable_data_ptr(); }

   private:
    torch::stable::Tensor bytes_;
  };

  // workspace_bytes(call), refusal(call) and run(call, stream) are the room's. Python asks lmdis_fast/backends.py
  // first.
  template <class Call>
  static int64_t workspace_bytes(const Call& call) {
    return lmdis::workspace_bytes(call);
  }
  template <class Call>
  void run(const Call& call) const {
    const char* const reason = lmdis::refusal(call);
    STD_TORCH_CHECK(reason == nullptr, "backend cuda: ", reason);
    lmdis::run(call, stream_);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace lmdis
