// Chooses the instruction set once, at the first call.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace lmdis {
namespace {

const Kernels& choose() {
  std::vector<const Kernels*> found;  // the best one first
#ifdef LM_HAS_AVX
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16::kernels);
    found.push_back(&avx512::kernels);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    found.push_back(&avx2::kernels);
#endif
  found.push_back(&baseline::kernels);
  const char* asked = std::getenv("LMDIS_FAST_CPU_CAPABILITY");
  if (asked == nullptr || *asked == '\0') return *found.front();
  std::string names;
  for (const Kernels* kernels : found) {
    if (std::string(asked) == kernels->instruction_set) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->instruction_set);
  }
  throw std::runtime_error("LMDIS_FAST_CPU_CAPABILITY must be one of " + names + " on this processor, got '" + asked +
                           "'");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace lmdis
