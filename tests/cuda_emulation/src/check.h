// The checks of CUDA_EMULATION_CHECK=1: every access of a kernel to shared and device memory is judged, independently
// of whether the schedule made it go wrong. Shadow memory (shadow.h) says what each byte is; race.h says who came
// before whom.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thread.h"

namespace cuda_emulation {

extern const bool checking;

enum class Access : uint8_t { kRead, kWrite, kStrongRead, kStrongWrite, kAtomic };

// Reports when the access is wrong, and remembers it.
void judge_access(ThreadContext& thread, const void* at, uint32_t bytes, Access access);
// The same, and counts it (access_counters.h).
void note_access(ThreadContext& thread, const void* at, uint32_t bytes, Access access);

// States of a byte of shadow memory.
constexpr uint8_t kUnallocated = 0;
constexpr uint8_t kAllocated = 1;
constexpr uint8_t kInitialised = 3;
constexpr uint8_t kInFlight = 5;  // the target of a cp.async that has not landed

// These do nothing unless the checks are on.
void set_region_state(const void* at, size_t bytes, uint8_t state);
void set_in_flight(const void* at, size_t bytes, bool in_flight);
void check_launch_begins();
void check_block_begins();
void check_block_barrier();
// The thread comes to a barrier or its end: what was only suspected of it is now certain.
void check_thread_settles(const ThreadContext& thread);
void check_warp_barrier(uint32_t warp, uint32_t lanes);

}  // namespace cuda_emulation
