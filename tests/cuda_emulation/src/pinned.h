// Host memory that the devices know.
#pragma once

#include <cstddef>

namespace cuda_emulation {

// All may be called from any host thread and from kernels. is_pinned_host is in internal.h.

void add_pinned(const void* begin, size_t bytes);
// The bytes that were added at `begin`, 0 when there were none.
size_t remove_pinned(const void* begin);
bool overlaps_pinned(const void* begin, size_t bytes);
// Where the piece of pinned memory around `address` begins and how long it is; 0 bytes outside.
size_t pinned_piece(const void* address, const void** begin);

}  // namespace cuda_emulation
