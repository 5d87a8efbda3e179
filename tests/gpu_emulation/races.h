// Which accesses are ordered by barriers. Every piece of memory has a shadow with its last writers and readers; time is
// a counter that every barrier advances, so that nothing has to be cleared between barriers or blocks.
#pragma once

#include <stdint.h>

#include "builtins.h"
#include "errors.h"

namespace gpu_emulation {

// What the lanes of a warp know of one another.
struct WarpClock {
  uint32_t all = 0;                           // every lane knows what the others did before this time
  uint32_t known[warp_size][warp_size] = {};  // what lane [i] knows of lane [j] beyond that
};

struct Now {
  uint32_t time = 2;                            // 0 is never, 1 is before the first launch
  uint32_t launch = 2, block = 2, barrier = 2;  // when they began, or were last passed
  uint32_t warp = 0, lane = 0;                  // the running thread's
  const WarpClock* clock = nullptr;
  uint64_t blocks = 0;  // that have begun; this is never set back
};
inline Now now;

struct Shadow {
  uint32_t written = 0, writers = 0;  // when for the last time, and by which lanes of
  uint32_t read = 0, readers = 0;
  uint8_t writing_warp = 0, reading_warp = 0;  // this warp, or of `several`
  uint8_t flags = 0;
};
constexpr uint8_t several = 255;
enum : uint8_t {
  belongs = 1,                 // to the tensor: gaps between strides do not
  atomically = 2,              // the last writers
  several_writing_blocks = 4,  // in this launch, all atomically
  several_reading_blocks = 8,
};

enum class Access { read, write, atomic };
enum class Conflict { none, thread, block };

// Those of a warp's lanes whose access at `time` is not ordered before what the running thread does now.
inline uint32_t unordered(uint32_t lanes, uint32_t time) {
  lanes &= ~(1u << now.lane);
  if (lanes == 0 || time < now.clock->all) return 0;
  uint32_t left = 0;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (time >= now.clock->known[now.lane][lane]) left |= 1u << lane;
  }
  return left;
}

template <bool across_blocks>
inline Conflict conflict(uint32_t time, uint32_t lanes, uint8_t warp, bool several_blocks) {
  if (time < (across_blocks ? now.launch : now.barrier)) return Conflict::none;
  if (across_blocks && (time < now.block || several_blocks)) return Conflict::block;
  if (time < now.barrier) return Conflict::none;
  if (warp != now.warp || unordered(lanes, time)) return Conflict::thread;
  return Conflict::none;
}
template <bool across_blocks>
inline Conflict conflict_with_writes(const Shadow& s) {
  return conflict<across_blocks>(s.written, s.writers, s.writing_warp, s.flags & several_writing_blocks);
}
template <bool across_blocks>
inline Conflict conflict_with_reads(const Shadow& s) {
  return conflict<across_blocks>(s.read, s.readers, s.reading_warp, s.flags & several_reading_blocks);
}

// Adds the running thread to those who did the same since the last barrier. Whoever is ordered before it is left out:
// what is ordered after it is ordered after them.
template <bool across_blocks>
inline void join(uint32_t& time, uint32_t& lanes, uint8_t& warp, uint8_t& flags, uint8_t several_blocks) {
  const uint32_t own = 1u << now.lane;
  if (across_blocks) {
    if (time < now.launch) {
      flags &= ~several_blocks;
    } else if (time < now.block) {
      flags |= several_blocks;
    }
  }
  if (time < now.barrier) {
    warp = now.warp;
    lanes = own;
  } else if (warp == now.warp) {
    lanes = unordered(lanes, time) | own;
  } else {
    warp = several;
  }
  time = now.time;
}

// Records an access, unless it conflicts with an earlier one: of which sort that was is left in `with`.
template <Access access, bool across_blocks>
inline Conflict record(Shadow& s, Access& with) {
  const bool both_atomic = access == Access::atomic && (s.flags & atomically);
  if (!both_atomic) {
    with = s.flags & atomically ? Access::atomic : Access::write;
    if (const Conflict found = conflict_with_writes<across_blocks>(s); found != Conflict::none) return found;
  }
  if (access == Access::read) {
    join<across_blocks>(s.read, s.readers, s.reading_warp, s.flags, several_reading_blocks);
    return Conflict::none;
  }
  with = Access::read;
  if (const Conflict found = conflict_with_reads<across_blocks>(s); found != Conflict::none) return found;
  if (both_atomic) {
    join<across_blocks>(s.written, s.writers, s.writing_warp, s.flags, several_writing_blocks);
    return Conflict::none;
  }
  const uint32_t own = 1u << now.lane;
  // an atomic right after the thread's own plain write: to the others the two are plain
  const bool after_own = s.writers == own && s.written >= now.barrier && s.written >= now.clock->all;
  const bool plain = access == Access::write || after_own;
  s.flags = (s.flags & ~(atomically | several_writing_blocks)) | (plain ? 0 : atomically);
  s.written = now.time;
  s.writers = own;
  s.writing_warp = uint8_t(now.warp);
  return Conflict::none;
}

inline const char* words(Access access) {
  return access == Access::read ? "reads" : access == Access::write ? "writes" : "updates atomically";
}

// A race as a sentence: what the running thread does to `what`, and who did what before.
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_race(const Shadow& before, Access access, Access with,
                                                             Conflict conflict, const std::string& what) {
  const char* did = with == Access::read ? "read" : with == Access::write ? "wrote" : "updated atomically";
  std::string who = "another block of the launch ";
  std::string why = "blocks run in any order";
  if (conflict == Conflict::thread) {
    const uint8_t warp = with == Access::read ? before.reading_warp : before.writing_warp;
    const uint32_t time = with == Access::read ? before.read : before.written;
    const uint32_t all = with == Access::read ? before.readers : before.writers;
    const uint32_t lanes = warp == now.warp ? unordered(all, time) : all;
    who = warp == several ? "other threads " : thread_words(warp * warp_size + __builtin_ctz(lanes)) + " ";
    why = warp == now.warp ? "no __syncwarp or __syncthreads is between" : "no __syncthreads is between";
  }
  fail(kind::race, std::string(words(access)) + " " + what + ", which " + who + did + ": " + why);
}

}  // namespace gpu_emulation
