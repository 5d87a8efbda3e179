// Shuffles, votes and barriers of a warp. Every lane that the mask names has to be alive and to come with the same mask
// to the same operation; results are found when the last one has come.
#pragma once

#include <string.h>

#include "blocks.h"

namespace gpu_emulation {

enum class Operation : uint8_t { barrier, ballot, any, all, shuffle, shuffle_xor, shuffle_up, shuffle_down };

inline const char* words(Operation operation) {
  constexpr const char* names[] = {"__syncwarp",  "__ballot_sync",   "__any_sync",     "__all_sync",
                                   "__shfl_sync", "__shfl_xor_sync", "__shfl_up_sync", "__shfl_down_sync"};
  return names[int(operation)];
}
inline std::string mask_words(uint32_t mask) {
  char text[16];
  snprintf(text, sizeof(text), "0x%08x", mask);
  return text;
}
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_mask(Operation operation, uint32_t mask, const Place& place,
                                                             const std::string& what) {
  fail(kind::warp_mask,
       std::string(words(operation)) + " with mask " + mask_words(mask) + " (" + words(place) + ") " + what);
}

// Memory is ordered by __syncwarp alone: shuffles and votes promise nothing of it.
inline void order_memory(Warp& warp, uint32_t mask) {
  const uint32_t time = ++now.time;
  WarpClock& clock = warp.clock;
  if (mask == warp.exists) {
    clock.all = time;
    return;
  }
  uint32_t known[warp_size] = {};
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    for (unsigned other = 0; other < warp_size; ++other)
      known[other] = std::max(known[other], clock.known[lane][other]);
  }
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) known[__builtin_ctz(lanes)] = time;
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1)
    std::copy(known, known + warp_size, clock.known[__builtin_ctz(lanes)]);
}

inline void complete(Warp& warp, Operation operation, uint32_t mask, const Place& place) {
  uint64_t ballot = 0;
  for (uint32_t lanes = mask; lanes; lanes &= lanes - 1) {
    const int lane = __builtin_ctz(lanes);
    if (warp.mask[lane] != mask || warp.operation[lane] != uint8_t(operation))
      fail_mask(operation, mask, place,
                "meets lane " + std::to_string(lane) + " at " + words(Operation(warp.operation[lane])) + " with mask " +
                    mask_words(warp.mask[lane]));
    ballot |= uint64_t(warp.value[lane] != 0) << lane;
  }
  if (operation == Operation::barrier) order_memory(warp, mask);
  const bool forward = order().mode != Order::Mode::reverse;
  for (uint32_t lanes = mask; lanes;) {
    const int lane = forward ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes);
    lanes &= ~(1u << lane);
    switch (operation) {
      case Operation::barrier: break;
      case Operation::ballot: warp.result[lane] = ballot; break;
      case Operation::any: warp.result[lane] = ballot != 0; break;
      case Operation::all: warp.result[lane] = ballot == mask; break;
      default: warp.result[lane] = warp.value[warp.source[lane]];
    }
  }
  warp.waiting &= ~mask;
  const unsigned first = now.warp * warp_size;
  for (uint32_t lanes = mask; lanes;) {
    const int lane = forward ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes);
    lanes &= ~(1u << lane);
    block.threads[first + lane]->state = Thread::State::ready;
    block.ready.push_back(uint16_t(first + lane));
  }
}

inline uint64_t wait_for_warp(Operation operation, uint32_t mask, uint64_t value, unsigned source, const Place& place) {
  Thread& self = *block.running;
  Warp& warp = *self.warp;
  const unsigned lane = now.lane;
  if (!(mask >> lane & 1)) fail_mask(operation, mask, place, "is called by lane " + std::to_string(lane));
  if (mask & ~warp.live) {
    const uint32_t missing = mask & ~warp.live;
    fail_mask(operation, mask, place,
              "names lane " + std::to_string(__builtin_ctz(missing)) +
                  (missing & ~warp.exists ? ", which is beyond the block" : ", which has ended"));
  }
  if (!(mask >> source & 1))
    fail_mask(operation, mask, place, "reads lane " + std::to_string(source) + ", which is not in the mask");
  if (const uint32_t others = warp.waiting & mask) {
    const int other = __builtin_ctz(others);
    if (warp.mask[other] != mask || warp.operation[other] != uint8_t(operation))
      fail_mask(operation, mask, place,
                "meets lane " + std::to_string(other) + " at " + words(Operation(warp.operation[other])) +
                    " with mask " + mask_words(warp.mask[other]));
  }
  warp.mask[lane] = mask;
  warp.operation[lane] = uint8_t(operation);
  warp.value[lane] = value;
  warp.source[lane] = uint8_t(source);
  warp.waiting |= 1u << lane;
  self.state = Thread::State::at_warp_operation;
  if ((warp.waiting & mask) == mask) complete(warp, operation, mask, place);
  wait();
  return warp.result[lane];
}

template <class T>
inline T shuffle(Operation operation, unsigned mask, T value, unsigned source, bool valid, const Place& place) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
  uint64_t sent = 0;
  memcpy(&sent, &value, sizeof(T));
  const uint64_t received = wait_for_warp(operation, mask, sent, valid ? source : now.lane, place);
  memcpy(&value, &received, sizeof(T));
  return value;
}

}  // namespace gpu_emulation

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  gpu_emulation::wait_for_warp(gpu_emulation::Operation::barrier, mask, 0, gpu_emulation::now.lane, place);
}
inline unsigned __ballot_sync(unsigned mask, int yes,
                              const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  return unsigned(
      gpu_emulation::wait_for_warp(gpu_emulation::Operation::ballot, mask, yes != 0, gpu_emulation::now.lane, place));
}
inline int __any_sync(unsigned mask, int yes, const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  return int(
      gpu_emulation::wait_for_warp(gpu_emulation::Operation::any, mask, yes != 0, gpu_emulation::now.lane, place));
}
inline int __all_sync(unsigned mask, int yes, const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  return int(
      gpu_emulation::wait_for_warp(gpu_emulation::Operation::all, mask, yes != 0, gpu_emulation::now.lane, place));
}
// A source outside the lane's own group of `width` lanes leaves the value as it was.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  const unsigned group = gpu_emulation::now.lane & ~unsigned(width - 1);
  return gpu_emulation::shuffle(gpu_emulation::Operation::shuffle, mask, value, group + (source & (width - 1)), true,
                                place);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                         const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  const unsigned lane = gpu_emulation::now.lane, source = (lane ^ unsigned(bits)) & 31;
  return gpu_emulation::shuffle(gpu_emulation::Operation::shuffle_xor, mask, value, source,
                                source <= (lane | unsigned(width - 1)), place);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                        const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  const unsigned lane = gpu_emulation::now.lane;
  return gpu_emulation::shuffle(gpu_emulation::Operation::shuffle_up, mask, value, lane - by,
                                (lane & unsigned(width - 1)) >= by, place);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                          const gpu_emulation::Place& place = gpu_emulation::Place::current()) {
  const unsigned lane = gpu_emulation::now.lane;
  return gpu_emulation::shuffle(gpu_emulation::Operation::shuffle_down, mask, value, lane + by,
                                (lane & unsigned(width - 1)) + by < unsigned(width), place);
}
