// Products of small tiles that lie in the first levels of the cache: C (=|+=) A B with the accumulators in registers.
// Included once per instruction set, as core/simd-inl.h is.
//
// B and C are row-major with rows of whole vectors; A is read one element at a time and broadcast, so either layout of
// it is as fast. Every element of C is one chain of fused multiply-adds over k from 0 up: its bits depend on its own
// row of A and column of B and on nothing else in the call.
#if defined(ITEMLOOM_TILE_PRODUCT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_TILE_PRODUCT_INL_H
#undef ITEMLOOM_TILE_PRODUCT_INL_H
#else
#define ITEMLOOM_TILE_PRODUCT_INL_H
#endif

#include <algorithm>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// kRows: element (i, k) of A is a[i * a_stride + k]. kColumns: it is a[k * a_stride + i].
enum class TileLayout { kRows, kColumns };

struct Tile {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int64_t depth;
  bool accumulate;
};

template <TileLayout kLayout, int kRows, int kVectors>
HWY_INLINE void tile_product_block(const Tile& tile, int64_t row, int64_t column) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const int64_t a_stride = tile.a_stride, b_stride = tile.b_stride;
  const float* HWY_RESTRICT a = kLayout == TileLayout::kRows ? tile.a + row * a_stride : tile.a + row;
  const float* HWY_RESTRICT b = tile.b + column;
  V sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(d);
  }
  for (int64_t k = 0; k < tile.depth; ++k) {
    V right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = hn::LoadU(d, b + k * b_stride + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V left = hn::Set(d, kLayout == TileLayout::kRows ? a[r * a_stride + k] : a[k * a_stride + r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
  }
  float* HWY_RESTRICT c = tile.c + row * tile.c_stride + column;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* place = c + r * tile.c_stride + v * kLanes;
      if (tile.accumulate) sum[r][v] = hn::Add(hn::LoadU(d, place), sum[r][v]);
      hn::StoreU(sum[r][v], d, place);
    }
  }
}

// As many rows at a time as the registers hold beside the vectors of B.
template <TileLayout kLayout, int kVectors>
HWY_INLINE void tile_product_panel(const Tile& tile, int64_t rows, int64_t column) {
  constexpr bool kManyRegisters = HWY_TARGET <= HWY_AVX3;
  constexpr int kRows = kManyRegisters ? (kVectors == 3 ? 8 : 12) : (kVectors == 3 ? 4 : kVectors == 2 ? 6 : 8);
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) tile_product_block<kLayout, kRows, kVectors>(tile, row, column);
  if constexpr (kRows > 8) {
    if (rows - row >= 8) tile_product_block<kLayout, 8, kVectors>(tile, row, column), row += 8;
  }
  if constexpr (kRows > 4) {
    if (rows - row >= 4) tile_product_block<kLayout, 4, kVectors>(tile, row, column), row += 4;
  }
  if (rows - row >= 2) tile_product_block<kLayout, 2, kVectors>(tile, row, column), row += 2;
  if (rows - row >= 1) tile_product_block<kLayout, 1, kVectors>(tile, row, column);
}

// C has `rows` rows and `columns` columns; columns is a multiple of the vector width.
template <TileLayout kLayout>
HWY_NOINLINE void tile_product(const Tile& tile, int64_t rows, int64_t columns) {
  constexpr int64_t kLanes = hn::MaxLanes(hn::ScalableTag<float>());
  int64_t column = 0;
  while (column < columns) {
    const int64_t left = (columns - column) / kLanes;
    if (left == 1) {
      tile_product_panel<kLayout, 1>(tile, rows, column);
      column += kLanes;
    } else if (left == 2 || left == 4) {
      tile_product_panel<kLayout, 2>(tile, rows, column);
      column += 2 * kLanes;
    } else {
      tile_product_panel<kLayout, 3>(tile, rows, column);
      column += 3 * kLanes;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif
