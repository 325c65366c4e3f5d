// Elements as NCCL knows them.
#pragma once

#include <nccl.h>

#include <cstddef>

namespace cuda_emulation {

// 0 for types that are not emulated.
size_t element_bytes(ncclDataType_t type);
const char* type_name(ncclDataType_t type);

// target[i] += source[i]. Like a ring of GPUs it rounds after every step.
void add_into(std::byte* target, const std::byte* source, size_t count, ncclDataType_t type);

}  // namespace cuda_emulation
