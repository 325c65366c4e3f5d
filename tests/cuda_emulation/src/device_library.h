// What device code may call or read that is neither memory nor arithmetic.
#pragma once

#include <cstdint>

#include "thread.h"

namespace cuda_emulation {

// Arguments arrive as pointers to .param memory.
uint32_t device_printf(const unsigned char* format, const unsigned char* arguments);
[[noreturn]] void device_assert_failed(ThreadContext& thread, const unsigned char* message, const unsigned char* file,
                                       const unsigned char* line, const unsigned char* function);
[[noreturn]] void device_trap(ThreadContext& thread);
[[noreturn]] void bad_branch_index(ThreadContext& thread);
// Ends the thread from inside a device function.
[[noreturn]] void exit_thread(ThreadContext& thread);
uint64_t device_clock();

}  // namespace cuda_emulation
