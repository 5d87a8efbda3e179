// A kernel that follows a pointer to global memory itself meets memory that nobody may touch; here that becomes one of
// its mistakes instead of the end of the process.
#pragma once

#include <signal.h>

#include "blocks.h"
#include "global_memory.h"

namespace gpu_emulation {

class FaultsCaught {
 public:
  FaultsCaught() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;  // it does not return, so nothing would unblock the signal
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultsCaught() { sigaction(SIGSEGV, &before_, nullptr); }
  FaultsCaught(const FaultsCaught&) = delete;
  FaultsCaught& operator=(const FaultsCaught&) = delete;

 private:
  static inline struct sigaction before_;

  static void on_fault(int signal, siginfo_t* info, void*) {
    Thread* const self = block.running;
    if (!self || !self->inside || !Buffers::contains(reinterpret_cast<uintptr_t>(info->si_addr))) {
      sigaction(signal, &before_, nullptr);  // happens again on return, for whoever listened before
      return;
    }
    try {
      fail(kind::direct_access, "follows a pointer to global memory itself, instead of by load or store");
    } catch (...) {
      block.failure = std::current_exception();
    }
    self->inside = false;
    self->state = Thread::State::ended;
    self->fiber.prepare(thread_main, self->number);  // what is on its stack is never returned to
    Fiber left;
    Fiber::switch_between(left, block.python);
  }
};

}  // namespace gpu_emulation
