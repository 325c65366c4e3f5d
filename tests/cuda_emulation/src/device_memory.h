// The memory of the emulated devices: one large address space. Every allocation ends (rounded to 256 bytes) at a guard
// page and its addresses are never used again, so that a late access traps.
#pragma once

#include <cstddef>

namespace cuda_emulation {

unsigned char* device_space();
size_t device_space_bytes();

// Reports when bytes around an allocation were overwritten.
void verify_canaries(const char* kernel);

}  // namespace cuda_emulation
