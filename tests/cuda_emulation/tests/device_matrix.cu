// mma.sync and ldmatrix against the tables of the PTX reference ("Matrix Fragments for mma.m16n8k16 with floating point
// type" and its neighbours), copied here element by element and independently of the emulation's formulas.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "on_device.h"

namespace matrix_test {

// Each lane finds its registers at in[10 * lane]: a0..a3, b0, b1, c0..c3; unused ones are skipped by the kinds.
enum Kind { kBf16K16, kF16K16, kBf16K8, kF16K8, kTf32K8, kTf32K4 };

#define MMA(shape, types, a_list, b_list, ...)                                                           \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." types ".f32 {%0,%1,%2,%3}, " a_list ", " b_list \
               ", {%0,%1,%2,%3};"                                                                        \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                          \
               : __VA_ARGS__)

__global__ void multiply(const uint32_t* in, float* out, int kind) {
  const uint32_t* r = in + 10 * threadIdx.x;
  float d[4] = {__uint_as_float(r[6]), __uint_as_float(r[7]), __uint_as_float(r[8]), __uint_as_float(r[9])};
  switch (kind) {
    case kBf16K16:
      MMA("m16n8k16", "bf16.bf16", "{%4,%5,%6,%7}", "{%8,%9}", "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]),
          "r"(r[5]));
      break;
    case kF16K16:
      MMA("m16n8k16", "f16.f16", "{%4,%5,%6,%7}", "{%8,%9}", "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]),
          "r"(r[5]));
      break;
    case kBf16K8:
      MMA("m16n8k8", "bf16.bf16", "{%4,%5}", "{%6}", "r"(r[0]), "r"(r[1]), "r"(r[4]));
      break;
    case kF16K8:
      MMA("m16n8k8", "f16.f16", "{%4,%5}", "{%6}", "r"(r[0]), "r"(r[1]), "r"(r[4]));
      break;
    case kTf32K8:
      MMA("m16n8k8", "tf32.tf32", "{%4,%5,%6,%7}", "{%8,%9}", "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]),
          "r"(r[5]));
      break;
    default:
      MMA("m16n8k4", "tf32.tf32", "{%4,%5}", "{%6}", "r"(r[0]), "r"(r[1]), "r"(r[4]));
  }
  for (int k = 0; k < 4; ++k) out[4 * threadIdx.x + k] = d[k];
}

// Four 8x8 matrices of 16-bit numbers; the lanes give the rows' addresses. out[lane * 14 + ...]: x1, x2, x4, then the
// same transposed.
__global__ void load(const uint16_t* in, uint32_t* out) {
  __shared__ __align__(16) uint16_t tiles[4 * 64];
  for (unsigned k = threadIdx.x; k < 4 * 64; k += 32) tiles[k] = in[k];
  __syncwarp();
  const unsigned row = static_cast<unsigned>(__cvta_generic_to_shared(tiles + 8 * threadIdx.x));
  uint32_t* r = out + 14 * threadIdx.x;
  uint32_t v[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(v[0]), "=r"(v[1])
               : "r"(row)
               : "memory");
  r[1] = v[0], r[2] = v[1];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(row)
               : "memory");
  for (int k = 0; k < 4; ++k) r[3 + k] = v[k];
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[7]) : "r"(row) : "memory");
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(v[0]), "=r"(v[1])
               : "r"(row)
               : "memory");
  r[8] = v[0], r[9] = v[1];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(row)
               : "memory");
  for (int k = 0; k < 4; ++k) r[10 + k] = v[k];
}

}  // namespace matrix_test

namespace {

using matrix_test::Kind;

int depth_of(Kind kind) {
  switch (kind) {
    case matrix_test::kBf16K16:
    case matrix_test::kF16K16:
      return 16;
    case matrix_test::kTf32K4:
      return 4;
    default:
      return 8;
  }
}

bool is_tf32(Kind kind) {
  return kind == matrix_test::kTf32K8 || kind == matrix_test::kTf32K4;
}

struct Place {
  int row, column;
};

// The reference's tables: element i of the fragment of a lane (group = lane / 4, member = lane % 4).
Place place_in_a(Kind kind, int lane, int i) {
  const int group = lane / 4, member = lane % 4;
  if (kind == matrix_test::kTf32K4) return {i == 0 ? group : group + 8, member};
  if (kind == matrix_test::kTf32K8) return {i == 0 || i == 2 ? group : group + 8, i < 2 ? member : member + 4};
  if (depth_of(kind) == 8) return {i < 2 ? group : group + 8, member * 2 + (i & 1)};
  return {i < 2 || (i >= 4 && i < 6) ? group : group + 8, i < 4 ? member * 2 + (i & 1) : member * 2 + (i & 1) + 8};
}

Place place_in_b(Kind kind, int lane, int i) {
  const int group = lane / 4, member = lane % 4;
  if (is_tf32(kind)) return {i == 0 ? member : member + 4, group};
  if (depth_of(kind) == 8) return {member * 2 + i, group};
  return {i < 2 ? member * 2 + (i & 1) : member * 2 + (i & 1) + 8, group};
}

Place place_in_c(int lane, int i) {
  return {i < 2 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1)};
}

uint16_t half_bits(Kind kind, float value) {
  uint16_t bits;
  if (kind == matrix_test::kF16K16 || kind == matrix_test::kF16K8) {
    const __half half = __float2half(value);
    std::memcpy(&bits, &half, 2);
  } else {
    const __nv_bfloat16 half = __float2bfloat16(value);
    std::memcpy(&bits, &half, 2);
  }
  return bits;
}

// Small integers and halves: exact in every type, and sums of their products are exact in fp32.
float number(int row, int column, int salt) {
  return static_cast<float>((row * 7 + column * 3 + salt) % 13 - 6) * 0.5f;
}

std::vector<uint32_t> registers_of(Kind kind) {
  std::vector<uint32_t> all(32 * 10);
  const int per_lane_a = depth_of(kind) * 16 / 32, per_lane_b = depth_of(kind) * 8 / 32;
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t* const r = &all[10 * lane];
    const auto put = [&](uint32_t* into, int i, float value) {
      if (is_tf32(kind)) {
        std::memcpy(into + i, &value, 4);
      } else {
        into[i / 2] |= static_cast<uint32_t>(half_bits(kind, value)) << 16 * (i % 2);
      }
    };
    for (int i = 0; i < per_lane_a; ++i) {
      const Place at = place_in_a(kind, lane, i);
      put(r, i, number(at.row, at.column, 1));
    }
    for (int i = 0; i < per_lane_b; ++i) {
      const Place at = place_in_b(kind, lane, i);
      put(r + 4, i, number(at.row, at.column, 5));
    }
    for (int i = 0; i < 4; ++i) {
      const Place at = place_in_c(lane, i);
      const float value = number(at.row, at.column, 9);
      std::memcpy(r + 6 + i, &value, 4);
    }
  }
  return all;
}

void test_multiply(Kind kind) {
  OnDevice<uint32_t> in(registers_of(kind));
  OnDevice<float> out(128);
  matrix_test::multiply<<<1, 32>>>(in.data(), out.data(), kind);
  const std::vector<float> values = out.values();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place at = place_in_c(lane, i);
      float expected = number(at.row, at.column, 9);
      for (int k = 0; k < depth_of(kind); ++k) expected += number(at.row, k, 1) * number(k, at.column, 5);
      REQUIRE(values[4 * lane + i] == expected);
    }
  }
}

// Without .trans lane l gets elements 2 * (l % 4) and the next of row l / 4; with it the same of the transposed matrix.
uint32_t pair_of(const std::vector<uint16_t>& tiles, int matrix, int lane, bool transposed) {
  const int row = lane / 4, column = lane % 4 * 2;
  const auto at = [&](int r, int c) { return uint32_t{tiles[matrix * 64 + (transposed ? c * 8 + r : r * 8 + c)]}; };
  return at(row, column) | at(row, column + 1) << 16;
}

void test_load() {
  std::vector<uint16_t> tiles(4 * 64);
  for (size_t k = 0; k < tiles.size(); ++k) tiles[k] = static_cast<uint16_t>(k * 257 + 3);
  OnDevice<uint16_t> in(tiles);
  OnDevice<uint32_t> out(32 * 14);
  matrix_test::load<<<1, 32>>>(in.data(), out.data());
  const std::vector<uint32_t> values = out.values();
  constexpr int kMatrixOf[] = {0, 0, 1, 0, 1, 2, 3};
  for (int lane = 0; lane < 32; ++lane) {
    for (int k = 0; k < 14; ++k) {
      REQUIRE(values[14 * lane + k] == pair_of(tiles, kMatrixOf[k % 7], lane, k >= 7));
    }
  }
}

}  // namespace

int main() {
  using namespace matrix_test;
  for (const Kind kind : {kBf16K16, kF16K16, kBf16K8, kF16K8, kTf32K8, kTf32K4}) test_multiply(kind);
  test_load();
  std::puts("ok");
}
