// Who came before whom. Time is counted in epochs: one for each launch, block, barrier, warp barrier and release. An
// access is known to a thread, that is ordered before what the thread does now, when
//   - it belongs to an earlier launch, or to the same thread,
//   - its block has passed a barrier since,
//   - its warp (or the lanes concerned) has passed a warp barrier since,
//   - or its thread has released it by an atomic that this thread (or, before a barrier, one of this block) has read.
#pragma once

#include <cstdint>

#include "shadow.h"
#include "thread.h"

namespace cuda_emulation {

// Judges the access against the cells that it touches, and remembers it there. `bytes` from `offset` in the region.
void judge_races(const ThreadContext& thread, const ShadowRegion& region, const void* at, uint32_t bytes, bool reads,
                 bool writes, bool strong);

// A strong access synchronises: it learns what earlier releases at this address made known, and adds its own.
void synchronise(const ThreadContext& thread, const void* at, bool acquires, bool releases);

}  // namespace cuda_emulation
