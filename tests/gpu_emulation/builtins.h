// CUDA's built-in variables and the types they have.
#pragma once

#include <stdint.h>

#include <string>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// The emulator runs in one thread of the operating system, the one that holds Python's lock.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace gpu_emulation {

constexpr unsigned warp_size = 32;

inline std::string words(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) + ")";
}
// The thread of a block that is number `linear`.
inline std::string thread_words(unsigned linear) {
  return "thread " + words(linear % blockDim.x, linear / blockDim.x % blockDim.y, linear / (blockDim.x * blockDim.y));
}

}  // namespace gpu_emulation
