// Elements as NCCL knows them.
#pragma once

#include <nccl.h>

#include <cstddef>

namespace cuda_emulation {

// 0 for types that are not emulated.
size_t element_bytes(ncclDataType_t type);
const char* type_name(ncclDataType_t type);
bool is_emulated(ncclRedOp_t operation);
const char* operation_name(ncclRedOp_t operation);

// target[i] = target[i] op source[i]. Like a ring of GPUs it rounds after every step.
void reduce_into(void* target, const void* source, size_t count, ncclDataType_t type, ncclRedOp_t operation);

}  // namespace cuda_emulation
