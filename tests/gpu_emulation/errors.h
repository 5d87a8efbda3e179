// A mistake of a kernel: its kind, and one sentence that says where and what.
#pragma once

#include <string.h>

#include <source_location>
#include <stdexcept>
#include <string>

#include "builtins.h"

namespace gpu_emulation {

using Place = std::source_location;

namespace kind {
constexpr const char* divergent_barrier = "divergent barrier";
constexpr const char* warp_mask = "warp mask";
constexpr const char* never_written = "never written";
constexpr const char* out_of_bounds = "out of bounds";
constexpr const char* misaligned = "misaligned";
constexpr const char* race = "race";
constexpr const char* input_written = "input written";
constexpr const char* output_unwritten = "output unwritten";
constexpr const char* direct_access = "direct access";
constexpr const char* limit = "limit";
}  // namespace kind

struct Error : std::runtime_error {
  const char* kind;
  Error(const char* kind_, const std::string& what) : std::runtime_error(what), kind(kind_) {}
};

// The kernel that runs, as its launch names it.
inline std::string kernel_name;

inline std::string words(const Place& place) {
  const char* slash = strrchr(place.file_name(), '/');
  return std::string(slash ? slash + 1 : place.file_name()) + ":" + std::to_string(place.line());
}
inline bool same(const Place& a, const Place& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

// Ends the launch: what the running thread did wrong.
[[noreturn, gnu::cold, gnu::noinline]] inline void fail(const char* kind, const std::string& what) {
  throw Error(kind, kernel_name + ", block " + words(blockIdx.x, blockIdx.y, blockIdx.z) + ", thread " +
                        words(threadIdx.x, threadIdx.y, threadIdx.z) + ": " + what);
}

}  // namespace gpu_emulation
