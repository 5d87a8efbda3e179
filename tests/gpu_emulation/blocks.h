// Launches: blocks one after another, the threads of a block in turns, in an order that can be chosen.
#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "fibers.h"
#include "races.h"

namespace gpu_emulation {

// Of blocks, and of the threads that may run.
struct Order {
  enum class Mode { forward, reverse, random } mode = Mode::forward;
  uint64_t seed = 0;
};
inline Order& order() {
  static Order chosen;
  return chosen;
}

class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed * 0x9E3779B97F4A7C15ull + 0x632BE59BD9B4E019ull) {}
  uint32_t below(uint32_t count) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return uint32_t((state_ >> 32) * count >> 32);
  }

 private:
  uint64_t state_;
};

struct Warp {
  uint32_t exists = 0, live = 0, waiting = 0;
  // of the operation at which each lane waits
  uint32_t mask[warp_size];
  uint8_t operation[warp_size], source[warp_size];
  uint64_t value[warp_size], result[warp_size];
  WarpClock clock;
};

struct Thread {
  enum class State : uint8_t { ended, ready, at_barrier, at_warp_operation };
  Fiber fiber;
  uint3 index;
  unsigned number;
  State state = State::ended;
  bool inside = false;  // has begun the kernel and not left it
  Warp* warp;
};

struct Abandoned {};  // thrown through a thread whose block has failed

struct Block {
  unsigned count = 0, alive = 0;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::vector<uint16_t> ready;  // the last one runs next
  Random random;
  Thread* running = nullptr;
  Fiber python;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  std::exception_ptr failure;
  bool abandoned = false;
  // the barrier
  unsigned waiting = 0, voted = 0, votes = 0;
  Place barrier;
};
inline Block block;

inline void make_ready(unsigned first, unsigned last) {
  // what is pushed last runs first
  const bool forward = order().mode != Order::Mode::reverse;
  for (unsigned i = first; i < last; ++i) {
    const unsigned number = forward ? first + last - 1 - i : i;
    block.threads[number]->state = Thread::State::ready;
    block.ready.push_back(uint16_t(number));
  }
}
inline Thread* take_ready() {
  auto& ready = block.ready;
  if (ready.empty()) return nullptr;
  if (order().mode == Order::Mode::random) std::swap(ready[block.random.below(uint32_t(ready.size()))], ready.back());
  Thread* const thread = block.threads[ready.back()].get();
  ready.pop_back();
  return thread;
}
inline void set_running(Thread& thread) {
  block.running = &thread;
  threadIdx = thread.index;
  now.warp = thread.number / warp_size;
  now.lane = thread.number % warp_size;
  now.clock = &thread.warp->clock;
}

[[noreturn, gnu::cold, gnu::noinline]] inline void fail_deadlock() {
  unsigned at_warp = 0;
  for (unsigned i = 0; i < block.count; ++i) at_warp += block.threads[i]->state == Thread::State::at_warp_operation;
  if (block.waiting)
    fail(kind::divergent_barrier, std::to_string(block.waiting) + " of " + std::to_string(block.count) +
                                      " threads wait at __syncthreads (" + words(block.barrier) + "), " +
                                      std::to_string(at_warp) + " at an operation of their warp");
  fail(kind::warp_mask, std::to_string(at_warp) + " threads wait at an operation of their warp for lanes of its mask " +
                            "that wait at another one");
}

// Runs other threads until this one is made ready again.
inline void wait() {
  Thread& self = *block.running;
  Thread* const next = take_ready();
  if (next == nullptr) fail_deadlock();
  if (next != &self) {
    set_running(*next);
    Fiber::switch_between(self.fiber, next->fiber);
  }
  if (block.abandoned) throw Abandoned();
}

// A thread that has ended, while others wait for it.
inline void check_exit(const Thread& self) {
  if (block.waiting)
    fail(kind::divergent_barrier, "ends while " + std::to_string(block.waiting) + " of " + std::to_string(block.count) +
                                      " threads wait at __syncthreads (" + words(block.barrier) + ")");
  for (uint32_t rest = self.warp->waiting; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (self.warp->mask[lane] >> now.lane & 1)
      fail(kind::warp_mask, "ends while lane " + std::to_string(lane) +
                                " of its warp waits at an operation whose mask holds lane " + std::to_string(now.lane));
  }
}

[[noreturn]] inline void thread_main() {
  Fiber::arrived(block.running->fiber);
  for (;;) {
    Thread& self = *block.running;
    self.inside = true;
    try {
      block.body(block.context);
      self.warp->live &= ~(1u << now.lane);
      --block.alive;
      check_exit(self);
    } catch (const Abandoned&) {
    } catch (...) {
      block.failure = std::current_exception();
    }
    self.inside = false;
    self.state = Thread::State::ended;
    Thread* next = block.failure ? nullptr : take_ready();
    if (next == nullptr && block.alive && !block.failure) {
      try {
        fail_deadlock();
      } catch (...) {
        block.failure = std::current_exception();
      }
    }
    if (next) set_running(*next);
    Fiber::switch_between(self.fiber, next ? next->fiber : block.python);
  }
}

inline void make_threads(unsigned count) {
  while (block.threads.size() < count) {
    auto& thread = block.threads.emplace_back(std::make_unique<Thread>());
    thread->number = unsigned(block.threads.size()) - 1;
    thread->fiber.prepare(thread_main, thread->number);
  }
  block.count = count;
  block.warps.resize((block.threads.size() + warp_size - 1) / warp_size);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = *block.threads[i];
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    thread.warp = &block.warps[i / warp_size];
  }
}

inline void run_block() {
  block.alive = block.count;
  block.waiting = block.voted = block.votes = 0;
  block.ready.clear();
  for (unsigned first = 0; first < block.count; first += warp_size) {
    Warp& warp = block.warps[first / warp_size];
    const unsigned lanes = std::min(block.count - first, warp_size);
    warp.exists = warp.live = lanes == warp_size ? ~0u : (1u << lanes) - 1;
    warp.waiting = 0;
  }
  now.block = now.barrier = ++now.time;
  ++now.blocks;
  make_ready(0, block.count);
  Thread* const first = take_ready();
  set_running(*first);
  Fiber::switch_between(block.python, first->fiber);
  if (!block.failure) return;
  // threads in the middle of the kernel leave it before anything else runs on their stacks
  block.abandoned = true;
  for (unsigned i = 0; i < block.count; ++i) {
    Thread& thread = *block.threads[i];
    if (!thread.inside) continue;
    set_running(thread);
    Fiber::switch_between(block.python, thread.fiber);
  }
  block.abandoned = false;
  std::rethrow_exception(std::exchange(block.failure, nullptr));
}

}  // namespace gpu_emulation
