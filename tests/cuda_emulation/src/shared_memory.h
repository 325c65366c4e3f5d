// The shared memory of the running block: one window of addresses. Static variables stand in it with red zones between
// them; the dynamic part ends at a guard page. Each block finds all of it filled with NaN patterns.
#pragma once

#include <cstdint>
#include <string>

#include "engine.h"

namespace cuda_emulation {

unsigned char* shared_window();
bool is_shared_address(const void* address);
// All addresses of shared memory, for the shadow memory.
size_t shared_window_bytes();

void open_shared_memory(const Launch& launch);
void close_shared_memory();
void fill_shared_memory();
// Reports when something was written between the variables.
void verify_shared_memory();

std::string describe_shared_address(const void* address);

}  // namespace cuda_emulation
