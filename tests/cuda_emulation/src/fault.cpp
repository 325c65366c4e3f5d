#include "fault.h"

#include <csignal>
#include <cstdlib>
#include <memory>

#include "engine.h"
#include "fiber.h"
#include "shared_memory.h"

namespace cuda_emulation {
namespace {

constexpr size_t kSignalStackBytes = 256 << 10;

bool is_ours(const void* address) {
  bool in_guard = false;
  return inside_launch() || is_device_address(address) || is_shared_address(address) ||
         fiber_of_address(address, &in_guard) >= 0;
}

void on_fault(int signal, siginfo_t* info, void*) {
  if (!is_ours(info->si_addr)) {
    std::signal(signal, SIG_DFL);  // not the emulation's: the access happens again and ends the process as it would
    return;
  }
  std::signal(signal, SIG_DFL);
  const std::string place = describe_address(info->si_addr);
  if (inside_launch()) report("bad access", "the kernel touches " + place);
  report("host access", "host code touches " + place);
}

struct SignalStack {
  std::unique_ptr<char[]> memory = std::make_unique<char[]>(kSignalStackBytes);
  SignalStack() {
    stack_t stack{};
    stack.ss_sp = memory.get();
    stack.ss_size = kSignalStackBytes;
    sigaltstack(&stack, nullptr);
  }
  ~SignalStack() {
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
  }
};

}  // namespace

void watch_faults() {
  thread_local SignalStack stack;
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    action.sa_sigaction = &on_fault;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    return true;
  }();
  (void)installed;
}

}  // namespace cuda_emulation
