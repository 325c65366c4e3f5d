// bfloat16: the upper half of a float, 8 bits of exponent and 7 of fraction. A storage format: a kernel over elements T
// (float or Bf16) computes in fp32, and what it stores as bf16 it rounds once, to the nearest, ties to even.
#pragma once

#include <bit>
#include <cstdint>

namespace itemloom {

struct Bf16 {
  uint16_t bits;
};

constexpr float to_float(Bf16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}

// To the nearest, ties to even, as cvt.rn.bf16.f32 does; a NaN becomes the NaN 0x7FFF.
constexpr Bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return {0x7FFF};
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

}  // namespace itemloom
