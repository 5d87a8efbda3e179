// __syncthreads and its votes.
#pragma once

#include "blocks.h"

namespace gpu_emulation {

// All threads of the block have to come here, none may have ended. Returns how many of them said yes.
inline unsigned wait_for_block(bool vote, const Place& place) {
  Thread& self = *block.running;
  if (block.alive < block.count)
    fail(kind::divergent_barrier, "waits at __syncthreads (" + words(place) + ") while " +
                                      std::to_string(block.count - block.alive) + " of " + std::to_string(block.count) +
                                      " threads have ended");
  if (block.waiting == 0) {
    block.barrier = place;
  } else if (!same(block.barrier, place)) {
    fail(kind::divergent_barrier, "waits at __syncthreads (" + words(place) + ") while " +
                                      std::to_string(block.waiting) + " of " + std::to_string(block.count) +
                                      " threads wait at another one (" + words(block.barrier) + ")");
  }
  block.votes += vote;
  self.state = Thread::State::at_barrier;
  if (++block.waiting == block.count) {
    block.voted = block.votes;
    block.waiting = block.votes = 0;
    now.barrier = ++now.time;
    make_ready(0, block.count);
  }
  wait();
  return block.voted;  // nobody passes the next barrier before all have read this
}

}  // namespace gpu_emulation

inline void __syncthreads(const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  gpu_emulation::wait_for_block(false, place);
}
inline int __syncthreads_or(int yes, const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  return gpu_emulation::wait_for_block(yes != 0, place) != 0;
}
inline int __syncthreads_and(int yes, const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  return gpu_emulation::wait_for_block(yes != 0, place) == gpu_emulation::block.count;
}
inline int __syncthreads_count(int yes, const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  return int(gpu_emulation::wait_for_block(yes != 0, place));
}
