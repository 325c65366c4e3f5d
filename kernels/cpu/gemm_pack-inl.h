// Operands of matrix products brought into the order in which the micro-tiles of gemm_tile-inl.h read them. Include it
// after <hwy/highway.h> inside a file that foreach_target.h includes again for each target.
//
// Panel p of B holds rows k = 0 .. K - 1 of columns [p kPanel, (p + 1) kPanel) one after the other, padded with zeros.
#if defined(ITEMLOOM_KERNELS_CPU_GEMM_PACK_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_KERNELS_CPU_GEMM_PACK_INL_H
#undef ITEMLOOM_KERNELS_CPU_GEMM_PACK_INL_H
#else
#define ITEMLOOM_KERNELS_CPU_GEMM_PACK_INL_H
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

// Four 4 x 4 transpositions at once, one in each 128-bit block of the vectors.
template <class V>
HWY_INLINE void transpose_blocks(V& v0, V& v1, V& v2, V& v3) {
  const TileTag d;
  const hn::RepartitionToWide<TileTag> wide;
  const auto low01 = hn::BitCast(wide, hn::InterleaveLower(d, v0, v1));
  const auto low23 = hn::BitCast(wide, hn::InterleaveLower(d, v2, v3));
  const auto high01 = hn::BitCast(wide, hn::InterleaveUpper(d, v0, v1));
  const auto high23 = hn::BitCast(wide, hn::InterleaveUpper(d, v2, v3));
  v0 = hn::BitCast(d, hn::InterleaveLower(wide, low01, low23));
  v1 = hn::BitCast(d, hn::InterleaveUpper(wide, low01, low23));
  v2 = hn::BitCast(d, hn::InterleaveLower(wide, high01, high23));
  v3 = hn::BitCast(d, hn::InterleaveUpper(wide, high01, high23));
}

// Four floats from each of kLanes / 4 rows that are `stride` apart.
template <class D>
HWY_INLINE hn::Vec<D> load_fours(D d, const float* from, int64_t stride) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return hn::LoadU(d, from);
  } else {
    const hn::Half<D> half;
    const int64_t upper = static_cast<int64_t>(hn::MaxLanes(half)) / 4 * stride;
    return hn::Combine(d, load_fours(half, from + upper, stride), load_fours(half, from, stride));
  }
}

// As pack_panel, from b stored (n, K): panel[k][column] = b[column * stride + k]. Vectors are built of the rows {0, 4,
// 8, 12}, {1, 5, 9, 13}, ..., so that a transposition inside their 128-bit blocks leaves whole columns.
HWY_INLINE void pack_panel_transposed(const float* b, int64_t stride, int64_t k, int64_t columns, float* panel) {
  const TileTag d;
  const int64_t k4 = k / 4 * 4;
  int64_t column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    const float* from = b + column * stride;
    float* to = panel + column;
    for (int64_t row = 0; row < k4; row += 4, to += 4 * kPanel) {
      auto v0 = load_fours(d, from + row, 4 * stride), v1 = load_fours(d, from + row + stride, 4 * stride);
      auto v2 = load_fours(d, from + row + 2 * stride, 4 * stride);
      auto v3 = load_fours(d, from + row + 3 * stride, 4 * stride);
      transpose_blocks(v0, v1, v2, v3);
      hn::StoreU(v0, d, to);
      hn::StoreU(v1, d, to + kPanel);
      hn::StoreU(v2, d, to + 2 * kPanel);
      hn::StoreU(v3, d, to + 3 * kPanel);
    }
    for (int64_t row = k4; row < k; ++row, to += kPanel) {
      for (int64_t lane = 0; lane < kLanes; ++lane) to[lane] = from[lane * stride + row];
    }
  }
  for (int64_t row = 0; row < k; ++row) {
    for (int64_t i = column; i < columns; ++i) panel[row * kPanel + i] = b[i * stride + row];
    for (int64_t i = std::max(column, columns); i < kPanel; ++i) panel[row * kPanel + i] = 0;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
