// CUDA_EMULATION_COUNTERS=FILE: how well the accesses of each kernel, source line by source line, suit the memory:
// 32-byte sectors of device memory per request of a warp against the least that could do, and cycles of the shared
// memory's banks against the least. The file is JSON, written when the process ends.
#pragma once

#include <cstdint>

#include "thread.h"

namespace cuda_emulation {

bool counting_accesses();
void count_access(const ThreadContext& thread, const void* at, uint32_t bytes, bool writes, bool is_shared);
// The block is over: what its lanes did is put together, warp by warp.
void count_block();

}  // namespace cuda_emulation
