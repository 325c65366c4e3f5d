// The inner pieces of matrix products, for kernels that cut their own tiles (the GEMM, the masked-item loss). Include
// it after <hwy/highway.h> inside a file that foreach_target.h includes again for each target.
//
// B is packed once into panels of kPanel columns: panel p holds rows k = 0 .. K - 1 of columns [p kPanel, (p + 1)
// kPanel) one after the other, padded with zeros. A micro-tile is kTileRows rows of C by one panel: its sums stay in
// registers over all of K, A is read in place by broadcast.
//
// Every element of C is the sum over k in ascending order from zero, whatever tile it falls into: the same bits for any
// cutting into rows and columns.
#if defined(ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H
#undef ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H
#else
#define ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 12 x 32 sums on AVX-512 (24 of 32 registers), 6 x 16 on AVX2 (12 of 16).
inline constexpr int kTileRows = HWY_TARGET == HWY_AVX3 ? 12 : 6;
inline constexpr int64_t kPanel = HWY_TARGET == HWY_AVX3 ? 32 : 16;
inline constexpr int64_t kLanes = kPanel / 2;
using TileTag = hn::FixedTag<float, kLanes>;

// Floats that a packed B of K x n takes.
HWY_INLINE int64_t packed_size(int64_t k, int64_t n) {
  return (n + kPanel - 1) / kPanel * kPanel * k;
}

// Packs one panel of `columns` <= kPanel columns from b stored (K, n) with rows `stride` apart.
HWY_INLINE void pack_panel(const float* b, int64_t stride, int64_t k, int64_t columns, float* panel) {
  const TileTag d;
  if (columns == kPanel) {
    for (int64_t row = 0; row < k; ++row, b += stride, panel += kPanel) {
      hn::StoreU(hn::LoadU(d, b), d, panel);
      hn::StoreU(hn::LoadU(d, b + kLanes), d, panel + kLanes);
    }
    return;
  }
  for (int64_t row = 0; row < k; ++row, b += stride, panel += kPanel) {
    std::memcpy(panel, b, static_cast<size_t>(columns) * sizeof(float));
    std::memset(panel + columns, 0, static_cast<size_t>(kPanel - columns) * sizeof(float));
  }
}

// Transposes 4 x 4 blocks: rows of `from` become columns of `to`.
HWY_INLINE void transpose_4x4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  const hn::FixedTag<float, 4> d;
  const auto r0 = hn::LoadU(d, from), r1 = hn::LoadU(d, from + from_stride);
  const auto r2 = hn::LoadU(d, from + 2 * from_stride), r3 = hn::LoadU(d, from + 3 * from_stride);
  const hn::RepartitionToWide<decltype(d)> dw;
  const auto low01 = hn::InterleaveLower(d, r0, r1), high01 = hn::InterleaveUpper(d, r0, r1);
  const auto low23 = hn::InterleaveLower(d, r2, r3), high23 = hn::InterleaveUpper(d, r2, r3);
  auto wide = [&](auto v) HWY_ATTR { return hn::BitCast(dw, v); };
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, wide(low01), wide(low23))), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, wide(low01), wide(low23))), d, to + to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dw, wide(high01), wide(high23))), d, to + 2 * to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dw, wide(high01), wide(high23))), d, to + 3 * to_stride);
}

// As pack_panel, from b stored (n, K): panel[k][column] = b[column * stride + k].
HWY_INLINE void pack_panel_transposed(const float* b, int64_t stride, int64_t k, int64_t columns, float* panel) {
  const int64_t columns4 = columns / 4 * 4, k4 = k / 4 * 4;
  for (int64_t column = 0; column < columns4; column += 4) {
    for (int64_t row = 0; row < k4; row += 4) {
      transpose_4x4(b + column * stride + row, stride, panel + row * kPanel + column, kPanel);
    }
    for (int64_t row = k4; row < k; ++row) {
      for (int64_t i = column; i < column + 4; ++i) panel[row * kPanel + i] = b[i * stride + row];
    }
  }
  for (int64_t row = 0; row < k; ++row) {
    for (int64_t i = columns4; i < columns; ++i) panel[row * kPanel + i] = b[i * stride + row];
    for (int64_t i = columns; i < kPanel; ++i) panel[row * kPanel + i] = 0;
  }
}

// What happens to the sums of a tile.
struct TileOutput {
  float* c;
  int64_t stride;
  int64_t columns;    // of the panel that exist, 1 to kPanel
  const float* bias;  // of the panel's first column, or null
  bool add;           // into c, else c is overwritten
};

template <class V>
HWY_INLINE void store_tile_row(V low, V high, const TileOutput& out, int64_t row) {
  const TileTag d;
  float* c = out.c + row * out.stride;
  if (out.columns == kPanel) {
    if (out.bias) {
      low = hn::Add(low, hn::LoadU(d, out.bias));
      high = hn::Add(high, hn::LoadU(d, out.bias + kLanes));
    }
    if (out.add) {
      low = hn::Add(low, hn::LoadU(d, c));
      high = hn::Add(high, hn::LoadU(d, c + kLanes));
    }
    hn::StoreU(low, d, c);
    hn::StoreU(high, d, c + kLanes);
    return;
  }
  HWY_ALIGN float sums[kPanel];
  hn::Store(low, d, sums);
  hn::Store(high, d, sums + kLanes);
  for (int64_t column = 0; column < out.columns; ++column) {
    float sum = sums[column];
    if (out.bias) sum += out.bias[column];
    if (out.add) sum += c[column];
    c[column] = sum;
  }
}

// R rows of A times a panel. A(i, k) is a[i * row_stride + k * kStep]: kStep 1 reads A in place, kStep kTileRows a
// strip from pack_strip (row_stride 1).
template <int R, int kStep>
HWY_INLINE void multiply_tile(const float* HWY_RESTRICT a, int64_t row_stride, const float* HWY_RESTRICT panel,
                              int64_t k, const TileOutput& out) {
  const TileTag d;
  hn::Vec<TileTag> low[R], high[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) low[i] = high[i] = hn::Zero(d);
  // Every third row has a pointer, the two after it are reached by the addressing modes: R pointers would not fit
  // into the registers.
  constexpr int kPointers = (R + 2) / 3;
  const float* rows[kPointers];
#pragma GCC unroll 16
  for (int i = 0; i < kPointers; ++i) rows[i] = a + 3 * i * row_stride;
  for (int64_t step = 0; step < k; ++step) {
    const auto b_low = hn::LoadU(d, panel), b_high = hn::LoadU(d, panel + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const auto value = hn::Set(d, rows[i / 3][(i % 3) * row_stride]);
      low[i] = hn::MulAdd(value, b_low, low[i]);
      high[i] = hn::MulAdd(value, b_high, high[i]);
    }
    panel += kPanel;
#pragma GCC unroll 16
    for (int i = 0; i < kPointers; ++i) rows[i] += kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) store_tile_row(low[i], high[i], out, i);
}

// The last rows of a block, fewer than kTileRows.
template <int R, int kStep>
HWY_INLINE void multiply_tail(int64_t rows, const float* a, int64_t row_stride, const float* panel, int64_t k,
                              const TileOutput& out) {
  if constexpr (R > 0) {
    if (rows == R) {
      multiply_tile<R, kStep>(a, row_stride, panel, k, out);
    } else {
      multiply_tail<R - 1, kStep>(rows, a, row_stride, panel, k, out);
    }
  }
}

// `rows` rows of A, row-major with rows `a_stride` apart and K columns, times one packed panel.
HWY_NOINLINE HWY_MAYBE_UNUSED void multiply_panel(const float* a, int64_t a_stride, int64_t rows, const float* panel,
                                                  int64_t k, TileOutput out) {
  for (; rows >= kTileRows; rows -= kTileRows) {
    multiply_tile<kTileRows, 1>(a, a_stride, panel, k, out);
    a += kTileRows * a_stride;
    out.c += kTileRows * out.stride;
  }
  multiply_tail<kTileRows - 1, 1>(rows, a, a_stride, panel, k, out);
}

// Packs columns [0, rows) of a, stored (K, m) with rows `stride` apart, into a strip: strip[k][i], kTileRows wide. The
// strip needs kLanes floats of room behind its end.
HWY_INLINE void pack_strip(const float* a, int64_t stride, int64_t k, int64_t rows, float* strip) {
  const TileTag d;
  const int64_t readable = stride;  // floats from a to the end of its row at least; the last rows are copied exactly
  if (rows == kTileRows && readable >= kLanes) {
    const int64_t fast = std::max<int64_t>(0, k - 1);
    for (int64_t row = 0; row < fast; ++row) {
      hn::StoreU(hn::LoadU(d, a + row * stride), d, strip + row * kTileRows);
    }
    for (int64_t row = fast; row < k; ++row) {
      std::memcpy(strip + row * kTileRows, a + row * stride, kTileRows * sizeof(float));
    }
    return;
  }
  for (int64_t row = 0; row < k; ++row) {
    for (int64_t i = 0; i < rows; ++i) strip[row * kTileRows + i] = a[row * stride + i];
    for (int64_t i = rows; i < kTileRows; ++i) strip[row * kTileRows + i] = 0;
  }
}
inline constexpr int64_t strip_size(int64_t k) {
  return k * kTileRows + kLanes;
}

// The strip's rows (at most kTileRows) times one packed panel.
HWY_NOINLINE HWY_MAYBE_UNUSED void multiply_strip(const float* strip, int64_t rows, const float* panel, int64_t k,
                                                  const TileOutput& out) {
  if (rows == kTileRows) {
    multiply_tile<kTileRows, kTileRows>(strip, 1, panel, k, out);
  } else {
    multiply_tail<kTileRows - 1, kTileRows>(rows, strip, 1, panel, k, out);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
