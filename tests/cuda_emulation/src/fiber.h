// Fibers: every CUDA thread of a block has its own stack, and a switch saves six registers.
#pragma once

#include <cstddef>
#include <string>

#include "thread.h"

namespace cuda_emulation {

constexpr size_t kFiberStackBytes = 128 << 10;

// Gives the thread a stack from the pool (one per number in the block) on which `fiber_main` will begin.
void prepare_fiber(ThreadContext& thread);
// Goes from one fiber to another; nullptr stands for the scheduler, which runs on the stack of the host thread.
// `ends` says that `from` never runs again.
void switch_fiber(ThreadContext* from, ThreadContext* to, bool ends);
// The host thread's stack is announced to the sanitizers; called before the first switch of a launch.
void adopt_host_stack();

// The thread whose stack (or the guard page below it) holds this address, -1 for none.
int fiber_of_address(const void* address, bool* in_guard);

// Defined by the engine: what a fiber does. Never returns.
[[noreturn]] void fiber_main();

}  // namespace cuda_emulation
