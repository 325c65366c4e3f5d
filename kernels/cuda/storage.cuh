// Elements as they are stored, float or bf16, and as kernels compute with them: fp32.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/bf16.h"

namespace itemloom::cuda {

__device__ inline float load(const float* from) {
  return *from;
}
__device__ inline float load(const Bf16* from) {
  return to_float(*from);
}

// Two neighbours, the first one in the lower half.
__device__ inline uint32_t pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return __bfloat16_as_ushort(pair.x) | uint32_t{__bfloat16_as_ushort(pair.y)} << 16;
}
__device__ inline float first_of(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ inline float second_of(uint32_t pair) {
  return __uint_as_float(pair & 0xFFFF0000);
}

__device__ inline void store(float value, float* to) {
  *to = value;
}
__device__ inline void store(float value, Bf16* to) {
  to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace itemloom::cuda
