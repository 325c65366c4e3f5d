#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#ifndef __x86_64__
#error "the fibers of the CUDA emulation are written for x86-64"
#endif

// cuda_emulation_switch(save, load): pushes the registers that a function must keep, stores the stack pointer in *save
// and continues on the stack `load`.
extern "C" void cuda_emulation_switch(void** save, void* load);
extern "C" void cuda_emulation_fiber_entry();
extern "C" void cuda_emulation_fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  cuda_emulation::fiber_main();
}
asm(R"(
.text
.globl cuda_emulation_switch
.type cuda_emulation_switch,@function
cuda_emulation_switch:
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
.size cuda_emulation_switch, .-cuda_emulation_switch
.globl cuda_emulation_fiber_entry
.type cuda_emulation_fiber_entry,@function
cuda_emulation_fiber_entry:
  xorl %ebp, %ebp
  call cuda_emulation_fiber_main
  ud2
.size cuda_emulation_fiber_entry, .-cuda_emulation_fiber_entry
.section .note.GNU-stack,"",@progbits
.text
)");

namespace cuda_emulation {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr size_t kSlotBytes = kFiberStackBytes + kGuardBytes;

struct HostStack {
  void* stack_pointer = nullptr;
  void* bottom = nullptr;
  size_t bytes = 0;
  void* sanitizer = nullptr;
};
HostStack host;

// [guard][stack][guard][stack]...; the pages are committed as they are used and stay.
unsigned char* stack_pool() {
  static unsigned char* const pool = [] {
    void* address =
        mmap(nullptr, kSlotBytes * kMaximumThreads, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) report("internal", "no address space for the stacks of the CUDA threads");
    unsigned char* const begin = static_cast<unsigned char*>(address);
    for (uint32_t k = 0; k < kMaximumThreads; ++k) {
      mprotect(begin + k * kSlotBytes + kGuardBytes, kFiberStackBytes, PROT_READ | PROT_WRITE);
    }
    return begin;
  }();
  return pool;
}

}  // namespace

void prepare_fiber(ThreadContext& thread) {
  thread.stack = stack_pool() + thread.number * kSlotBytes + kGuardBytes;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(thread.stack, kFiberStackBytes);
  thread.sanitizer_stack = nullptr;
#elif defined(__SANITIZE_THREAD__)
  if (!thread.sanitizer_stack) thread.sanitizer_stack = __tsan_create_fiber(0);
#endif
  // `call` pushes eight bytes onto a 16-byte aligned stack: the entry must find it aligned.
  void** top = reinterpret_cast<void**>(thread.stack + kFiberStackBytes - 64);
  *--top = nullptr;
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&cuda_emulation_fiber_entry);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  thread.stack_pointer = top;
}

void adopt_host_stack() {
#if defined(__SANITIZE_ADDRESS__)
  // For the main thread glibc reads /proc/self/maps, which takes longer than many a launch.
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  pthread_attr_getstack(&attributes, &host.bottom, &host.bytes);
  pthread_attr_destroy(&attributes);
#elif defined(__SANITIZE_THREAD__)
  host.sanitizer = __tsan_get_current_fiber();
#endif
}

void switch_fiber(ThreadContext* from, ThreadContext* to, [[maybe_unused]] bool ends) {
  void** const save = from ? &from->stack_pointer : &host.stack_pointer;
  void* const load = to ? to->stack_pointer : host.stack_pointer;
#if defined(__SANITIZE_ADDRESS__)
  void** const fake = from ? &from->sanitizer_stack : &host.sanitizer;
  __sanitizer_start_switch_fiber(ends ? nullptr : fake, to ? static_cast<void*>(to->stack) : host.bottom,
                                 to ? kFiberStackBytes : host.bytes);
  cuda_emulation_switch(save, load);
  __sanitizer_finish_switch_fiber(from ? from->sanitizer_stack : host.sanitizer, nullptr, nullptr);
#else
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to ? to->sanitizer_stack : host.sanitizer, 0);
#endif
  cuda_emulation_switch(save, load);
#endif
}

int fiber_of_address(const void* address, bool* in_guard) {
  const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - stack_pool());
  if (offset >= kSlotBytes * kMaximumThreads) return -1;
  *in_guard = offset % kSlotBytes < kGuardBytes;
  return static_cast<int>(offset / kSlotBytes);
}

}  // namespace cuda_emulation
