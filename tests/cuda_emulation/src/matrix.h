// ldmatrix and mma.sync. The layouts of the fragments are those of the PTX reference, section "Matrix
// multiply-accumulate operation using mma instruction".
#pragma once

#include <cstdint>

#include "floating.h"
#include "thread.h"

namespace cuda_emulation {

// Loads `count` (1, 2, 4) 8x8 matrices of 16-bit elements; lane 8*m + r gives the address of row r of matrix m.
void load_matrix(ThreadContext& thread, uint32_t (&rows)[4], const unsigned char* row, uint32_t count, bool transposed);

// A kind of product: A is 16 x kDepth, B is kDepth x 8; a register of A or B holds kPerRegister elements.
template <class Type>
struct Mma16x8x16 {
  static constexpr int kVariant = 0, kDepth = 16, kPerRegister = 2;
  static float element(uint32_t bits, int half) { return widen<Type>(static_cast<uint16_t>(bits >> 16 * half)); }
};
template <class Type>
struct Mma16x8x8 {
  static constexpr int kVariant = 1, kDepth = 8, kPerRegister = 2;
  static float element(uint32_t bits, int half) { return widen<Type>(static_cast<uint16_t>(bits >> 16 * half)); }
};
// Hardware reads the upper 19 bits of a tf32 register.
struct Mma16x8x8Tf32 {
  static constexpr int kVariant = 2, kDepth = 8, kPerRegister = 1;
  static float element(uint32_t bits, int) { return float_of(bits & ~0x1fffu); }
};
struct Mma16x8x4Tf32 {
  static constexpr int kVariant = 3, kDepth = 4, kPerRegister = 1;
  static float element(uint32_t bits, int) { return float_of(bits & ~0x1fffu); }
};

// d = a * b + d, with d in fp32; products are exact and summed in fp32 in the order of k.
template <class Kind, int kRegistersA, int kRegistersB>
void matrix_multiply(ThreadContext& thread, float (&d)[4], const uint32_t (&a)[kRegistersA],
                     const uint32_t (&b)[kRegistersB]);

// ---- Implementation ----

struct MmaFragments {
  const uint32_t* a;
  const uint32_t* b;
  float* d;
};
void multiply_together(ThreadContext& thread, int variant, const MmaFragments& fragments,
                       void (*combine)(ThreadContext* lanes, uint32_t arrived));

// A lane is (group, member) = (lane / 4, lane % 4). Register r of A holds row group + 8 * (r % 2) and the columns from
// (member + 4 * (r / 2)) * kPerRegister; register r of B the rows from (member + 4 * r) * kPerRegister of column group.
template <class Kind>
void combine_multiply(ThreadContext* lanes, uint32_t) {
  constexpr int kPer = Kind::kPerRegister, kRegistersB = Kind::kDepth / (4 * kPer), kRegistersA = 2 * kRegistersB;
  float a[16][Kind::kDepth], b[Kind::kDepth][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaFragments& in = *static_cast<const MmaFragments*>(lanes[lane].input);
    const int group = lane / 4, member = lane % 4;
    for (int e = 0; e < kPer; ++e) {
      for (int r = 0; r < kRegistersA; ++r) {
        a[group + 8 * (r % 2)][(member + 4 * (r / 2)) * kPer + e] = Kind::element(in.a[r], e);
      }
      for (int r = 0; r < kRegistersB; ++r) b[(member + 4 * r) * kPer + e][group] = Kind::element(in.b[r], e);
    }
    for (int e = 0; e < 4; ++e) d[group + 8 * (e / 2)][2 * member + e % 2] = in.d[e];
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < Kind::kDepth; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* const out = static_cast<const MmaFragments*>(lanes[lane].input)->d;
    for (int e = 0; e < 4; ++e) out[e] = d[lane / 4 + 8 * (e / 2)][2 * (lane % 4) + e % 2];
  }
}

template <class Kind, int kRegistersA, int kRegistersB>
void matrix_multiply(ThreadContext& thread, float (&d)[4], const uint32_t (&a)[kRegistersA],
                     const uint32_t (&b)[kRegistersB]) {
  static_assert(kRegistersB * 4 * Kind::kPerRegister == Kind::kDepth && kRegistersA == 2 * kRegistersB);
  multiply_together(thread, Kind::kVariant, MmaFragments{a, b, d}, &combine_multiply<Kind>);
}

}  // namespace cuda_emulation
