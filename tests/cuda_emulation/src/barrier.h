// Barriers of a block.
#pragma once

#include <string>

#include "thread.h"

namespace cuda_emulation {

// `count` is the number of threads that the barrier waits for, 0 for the whole block.
void block_barrier(ThreadContext& thread, uint32_t number, uint32_t count);
void block_barrier_arrive(ThreadContext& thread, uint32_t number, uint32_t count);
uint32_t block_barrier_popc(ThreadContext& thread, uint32_t number, uint32_t count, bool predicate);
bool block_barrier_and(ThreadContext& thread, uint32_t number, uint32_t count, bool predicate);
bool block_barrier_or(ThreadContext& thread, uint32_t number, uint32_t count, bool predicate);

// The thread exits: nobody waits for it any more.
void leave_barriers(ThreadContext& thread);

// For the report of a deadlock: " thread(s), the first (0,0,0), wait at ...".
std::string describe_wait(const ThreadContext& thread);

}  // namespace cuda_emulation
