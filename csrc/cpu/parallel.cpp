// Tasks in torch's own threads; no second thread pool, no OpenMP in this library.
#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "bands.h"

namespace lmdis {
namespace {

// Kept by each thread between calls, so that its pages are touched once; large ones are given back.
class Scratch {
 public:
  char* take(size_t bytes) {
    if (bytes > size_) {
      memory_.reset(static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)));
      size_ = memory_ ? bytes : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }
  void give_back() {
    if (size_ > kKept) memory_.reset(), size_ = 0;
  }

 private:
  static constexpr size_t kKept = 1 << 20;
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> memory_;
  size_t size_ = 0;
};

}  // namespace

void parallel_tasks(int64_t count, size_t scratch_bytes, void* context,
                    void (*body)(void* context, char* scratch, int64_t first, int64_t last)) {
  if (count == 0) return;
  torch::stable::parallel_for(0, count, 1, [=](int64_t first, int64_t last) {
    static thread_local Scratch scratch;
    body(context, scratch.take(scratch_bytes), first, last);
    scratch.give_back();
  });
}

}  // namespace lmdis
