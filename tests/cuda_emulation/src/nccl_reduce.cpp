#include "nccl_reduce.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace cuda_emulation {
namespace {

// NCCL's integers wrap around.
template <class Value>
Value add(Value left, Value right) {
  return left + right;
}
template <>
int32_t add(int32_t left, int32_t right) {
  return static_cast<int32_t>(static_cast<uint32_t>(left) + static_cast<uint32_t>(right));
}
template <>
int64_t add(int64_t left, int64_t right) {
  return static_cast<int64_t>(static_cast<uint64_t>(left) + static_cast<uint64_t>(right));
}

template <class Value>
Value combine(Value left, Value right, ncclRedOp_t operation) {
  if (operation == ncclMax) return std::max(left, right);
  if (operation == ncclMin) return std::min(left, right);
  return add(left, right);
}

template <>
__nv_bfloat16 combine(__nv_bfloat16 left, __nv_bfloat16 right, ncclRedOp_t operation) {
  return __float2bfloat16(combine(__bfloat162float(left), __bfloat162float(right), operation));
}

// Through memcpy, because chunks of data are aligned to nothing.
template <class Value>
void reduce_values(std::byte* target, const std::byte* source, size_t count, ncclRedOp_t operation) {
  for (size_t index = 0; index < count; ++index) {
    Value left, right;
    std::memcpy(&left, target + index * sizeof(Value), sizeof(Value));
    std::memcpy(&right, source + index * sizeof(Value), sizeof(Value));
    left = combine(left, right, operation);
    std::memcpy(target + index * sizeof(Value), &left, sizeof(Value));
  }
}

}  // namespace

size_t element_bytes(ncclDataType_t type) {
  switch (type) {
    case ncclBfloat16:
      return 2;
    case ncclFloat32:
    case ncclInt32:
      return 4;
    case ncclFloat64:
    case ncclInt64:
      return 8;
    default:
      return 0;
  }
}

const char* type_name(ncclDataType_t type) {
  switch (type) {
    case ncclBfloat16:
      return "bfloat16";
    case ncclFloat32:
      return "float32";
    case ncclInt32:
      return "int32";
    case ncclFloat64:
      return "float64";
    case ncclInt64:
      return "int64";
    default:
      return "a type that is not emulated";
  }
}

bool is_emulated(ncclRedOp_t operation) {
  return operation == ncclSum || operation == ncclMax || operation == ncclMin;
}

const char* operation_name(ncclRedOp_t operation) {
  return operation == ncclMax ? "max" : operation == ncclMin ? "min" : "sum";
}

void reduce_into(void* target, const void* source, size_t count, ncclDataType_t type, ncclRedOp_t operation) {
  auto* to = static_cast<std::byte*>(target);
  const auto* from = static_cast<const std::byte*>(source);
  switch (type) {
    case ncclBfloat16:
      return reduce_values<__nv_bfloat16>(to, from, count, operation);
    case ncclFloat32:
      return reduce_values<float>(to, from, count, operation);
    case ncclInt32:
      return reduce_values<int32_t>(to, from, count, operation);
    case ncclFloat64:
      return reduce_values<double>(to, from, count, operation);
    case ncclInt64:
      return reduce_values<int64_t>(to, from, count, operation);
    default:
      return;
  }
}

}  // namespace cuda_emulation
