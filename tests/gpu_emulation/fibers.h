// Stacks to switch between: each thread of a block runs on its own.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define LM_EMULATION_ASAN 1
#else
#define LM_EMULATION_ASAN 0
#endif

#if defined(__x86_64__)
// Keeps the registers that a function has to keep on the one stack and takes them from the other. Weak: each module
// that includes this header brings its own.
asm(R"(
  .text
  .weak gpu_emulation_switch_stack
  .hidden gpu_emulation_switch_stack
  .type gpu_emulation_switch_stack, @function
gpu_emulation_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size gpu_emulation_switch_stack, .-gpu_emulation_switch_stack
)");
extern "C" void gpu_emulation_switch_stack(void** from, void* to);
#else
#include <ucontext.h>  // a system call a switch: slower, but for any processor
#endif

namespace gpu_emulation {

class Fiber {
 public:
  // The one that Python called.
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
    if (stack_) munmap(stack_, bytes);
  }

  // Runs entry(), which never returns, when it is switched to for the first time.
  void prepare(void (*entry)(), unsigned number) {
    if (!stack_) {
      stack_ = static_cast<char*>(
          mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (stack_ == MAP_FAILED) throw std::bad_alloc();
      mprotect(stack_, page, PROT_NONE);
    }
    // stacks that began at the same place in their pages would share the sets of the cache
    char* const top = stack_ + bytes - (number % 61) * 192 - 64;
#if defined(__x86_64__)
    auto** slot = reinterpret_cast<void**>(top);
    *--slot = nullptr;  // where entry would return to
    *--slot = reinterpret_cast<void*>(entry);
    for (int kept_register = 0; kept_register < 6; ++kept_register) *--slot = nullptr;
    position_ = slot;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = top - stack_;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  static void switch_between(Fiber& from, Fiber& to) {
#if LM_EMULATION_ASAN
    __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom(), to.size());
#endif
#if defined(__x86_64__)
    gpu_emulation_switch_stack(&from.position_, to.position_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
    arrived(from);
  }
  // To be called where entry() begins.
  static void arrived(Fiber& here) {
#if LM_EMULATION_ASAN
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(here.fake_stack_, &bottom, &size);
    // the sanitizer knows the stack that Python called from, and tells when it is left for the first time
    if (!python_bottom_) python_bottom_ = bottom, python_size_ = size;
#else
    (void)here;
#endif
  }

 private:
  static constexpr size_t page = 4096;
  static constexpr size_t bytes = LM_EMULATION_ASAN ? 512 * 1024 : 128 * 1024;
#if LM_EMULATION_ASAN
  static inline const void* python_bottom_ = nullptr;
  static inline size_t python_size_ = 0;
  void* fake_stack_ = nullptr;
  const void* bottom() const { return stack_ ? stack_ : python_bottom_; }
  size_t size() const { return stack_ ? bytes : python_size_; }
#endif
#if defined(__x86_64__)
  void* position_ = nullptr;
#else
  ucontext_t context_;
#endif
  char* stack_ = nullptr;
};

}  // namespace gpu_emulation
