#include "nccl_reduce.h"

#include <cuda_bf16.h>

#include <cstring>

namespace cuda_emulation {
namespace {

template <class Value>
Value add(Value left, Value right) {
  return left + right;
}
template <>
__nv_bfloat16 add(__nv_bfloat16 left, __nv_bfloat16 right) {
  return __float2bfloat16(__bfloat162float(left) + __bfloat162float(right));
}

// Through memcpy, because chunks of data are aligned to nothing.
template <class Value>
void add_values(std::byte* target, const std::byte* source, size_t count) {
  for (size_t index = 0; index < count; ++index) {
    Value left, right;
    std::memcpy(&left, target + index * sizeof(Value), sizeof(Value));
    std::memcpy(&right, source + index * sizeof(Value), sizeof(Value));
    left = add(left, right);
    std::memcpy(target + index * sizeof(Value), &left, sizeof(Value));
  }
}

}  // namespace

size_t element_bytes(ncclDataType_t type) {
  switch (type) {
    case ncclBfloat16:
      return 2;
    case ncclFloat32:
      return 4;
    case ncclFloat64:
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
    case ncclFloat64:
      return "float64";
    default:
      return "a type that is not emulated";
  }
}

void add_into(std::byte* target, const std::byte* source, size_t count, ncclDataType_t type) {
  switch (type) {
    case ncclBfloat16:
      return add_values<__nv_bfloat16>(target, source, count);
    case ncclFloat32:
      return add_values<float>(target, source, count);
    case ncclFloat64:
      return add_values<double>(target, source, count);
    default:
      return;
  }
}

}  // namespace cuda_emulation
