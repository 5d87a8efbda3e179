// LM_LAUNCH: a kernel over a grid of blocks.
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "barriers.h"
#include "faults.h"
#include "shared_memory.h"

namespace gpu_emulation {

// Kernels and grids since they were last asked for.
struct Launched {
  std::string kernel;
  dim3 grid;
};
inline std::vector<Launched> launched;

inline void check_launch(dim3 grid, dim3 threads, size_t dynamic_shared) {
  const auto refuse = [](const std::string& what) { throw Error(kind::limit, kernel_name + ": " + what); };
  const size_t count = size_t(threads.x) * threads.y * threads.z;
  if (count == 0 || count > 1024 || threads.z > 64)
    refuse("a block of " + words(threads.x, threads.y, threads.z) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    refuse("a grid of " + words(grid.x, grid.y, grid.z) + " blocks");
  if (dynamic_shared > shared_bytes)
    refuse(std::to_string(dynamic_shared) + " bytes of dynamic shared memory, of which a block has " +
           std::to_string(shared_bytes));
}

template <class Body>
void launch(const char* kernel, dim3 grid, dim3 threads, size_t dynamic_shared, Body body) {
  kernel_name = kernel;
  if (kernel_name.front() == '(' && kernel_name.back() == ')')
    kernel_name = kernel_name.substr(1, kernel_name.size() - 2);
  check_launch(grid, threads, dynamic_shared);
  launched.push_back({kernel_name, grid});
  gridDim = grid;
  blockDim = threads;
  block.random = Random(order().seed);
  shared_memory.dynamic = dynamic_shared;
  make_threads(threads.x * threads.y * threads.z);
  block.body = [](void* context) { (*static_cast<Body*>(context))(); };
  block.context = &body;
  std::vector<uint32_t> blocks(size_t(grid.x) * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (order().mode == Order::Mode::reverse) std::reverse(blocks.begin(), blocks.end());
  if (order().mode == Order::Mode::random)
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[block.random.below(uint32_t(i))]);
  const FaultsCaught during_the_launch;
  now.launch = ++now.time;
  for (const uint32_t number : blocks) {
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    run_block();
  }
}

}  // namespace gpu_emulation

// The arguments are evaluated once; each thread has its own copy of them.
#define LM_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                       \
  (static_cast<void>(stream), [&](auto... arguments) {                                                  \
    ::gpu_emulation::launch(#kernel, (grid), (block), (shared_bytes), [&] { (kernel)(arguments...); }); \
  }(__VA_ARGS__))
