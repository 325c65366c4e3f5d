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
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

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

// What happens to the sums of a tile.
struct TileOutput {
  float* c;
  int64_t stride;
  int64_t columns;    // of the panel that exist, 1 to kPanel
  const float* bias;  // of the panel's first column, or null
  bool add;           // into c, else c is overwritten
};

// What a micro-tile multiplies.
struct TileInput {
  const float* a;
  int64_t a_stride;
  const float* b;    // a panel, or columns of a row-major B in place
  int64_t b_stride;  // kPanel, or B's row length
  int64_t k;
  const float* ahead;  // what this thread will need next: one cache line a step over k is asked to come into L2,
  int64_t ahead_step;  //   this many floats after the one before
};

enum class TileSource {
  kRows,     // A(i, k) is a[i * a_stride + k]: row-major
  kColumns,  // A(i, k) is a[k * a_stride + i]: transposed, or a strip from pack_strip (stride kTileRows)
};

// The end of a tile whose panel is cut by the edge of C.
HWY_NOINLINE inline void store_edge(const float* sums, int64_t rows, const TileOutput& out) {
  for (int64_t row = 0; row < rows; ++row) {
    float* c = out.c + row * out.stride;
    for (int64_t column = 0; column < out.columns; ++column) {
      float sum = sums[row * kPanel + column];
      if (out.bias) sum += out.bias[column];
      if (out.add) sum += c[column];
      c[column] = sum;
    }
  }
}

// R rows of A times a panel.
template <TileSource kSource, int R>
HWY_NOINLINE void multiply_tile(const TileInput& in, const TileOutput& out) {
  const TileTag d;
  hn::Vec<TileTag> low[R], high[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) low[i] = high[i] = hn::Zero(d);
  // Every third row has a pointer, the two after it are reached by the addressing modes: R pointers would not fit
  // into the registers.
  constexpr int kPointers = kSource == TileSource::kRows ? (R + 2) / 3 : 1;
  const int64_t row_stride = kSource == TileSource::kRows ? in.a_stride : 1;
  const float* HWY_RESTRICT rows[kPointers];
#pragma GCC unroll 16
  for (int i = 0; i < kPointers; ++i) rows[i] = in.a + 3 * i * row_stride;
  const float* HWY_RESTRICT b = in.b;
  const float* ahead = in.ahead;
  const int64_t k = in.k, a_step = kSource == TileSource::kRows ? 1 : in.a_stride, b_step = in.b_stride;
  const int64_t ahead_step = in.ahead_step;
  for (int64_t step = 0; step < k; ++step) {
    const auto b_low = hn::LoadU(d, b), b_high = hn::LoadU(d, b + kLanes);
    __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const float* row = kSource == TileSource::kRows ? rows[i / 3] + i % 3 * row_stride : rows[0] + i;
      const auto value = hn::Set(d, *row);
      low[i] = hn::MulAdd(value, b_low, low[i]);
      high[i] = hn::MulAdd(value, b_high, high[i]);
    }
    b += b_step;
    ahead += ahead_step;
#pragma GCC unroll 16
    for (int i = 0; i < kPointers; ++i) rows[i] += a_step;
  }
  if (out.columns < kPanel) {
    HWY_ALIGN float sums[R * kPanel];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      hn::Store(low[i], d, sums + i * kPanel);
      hn::Store(high[i], d, sums + i * kPanel + kLanes);
    }
    store_edge(sums, R, out);
    return;
  }
  if (out.bias) {
    const auto bias_low = hn::LoadU(d, out.bias), bias_high = hn::LoadU(d, out.bias + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) low[i] = hn::Add(low[i], bias_low), high[i] = hn::Add(high[i], bias_high);
  }
  float* c = out.c;
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i, c += out.stride) {
    if (out.add) {
      low[i] = hn::Add(low[i], hn::LoadU(d, c));
      high[i] = hn::Add(high[i], hn::LoadU(d, c + kLanes));
    }
    hn::StoreU(low[i], d, c);
    hn::StoreU(high[i], d, c + kLanes);
  }
}

using MultiplyTile = void (*)(const TileInput&, const TileOutput&);
template <TileSource kSource, size_t... kIndex>
constexpr std::array<MultiplyTile, sizeof...(kIndex)> tiles_of_all_heights(std::index_sequence<kIndex...>) {
  return {multiply_tile<kSource, static_cast<int>(kIndex) + 1>...};
}
// kTiles<...>[rows - 1] multiplies that many rows.
template <TileSource kSource>
inline constexpr auto kTiles = tiles_of_all_heights<kSource>(std::make_index_sequence<kTileRows>());

// body(row, height) for micro-tiles of nearly equal height that cover `rows` rows.
template <class Body>
HWY_INLINE void for_tiles(int64_t rows, const Body& body) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t row = rows * tile / tiles;
    body(row, rows * (tile + 1) / tiles - row);
  }
}

// `rows` rows of A, row-major with rows `a_stride` apart and K columns, times one packed panel.
HWY_NOINLINE inline void multiply_panel(const float* a, int64_t a_stride, int64_t rows, const float* panel, int64_t k,
                                        const TileOutput& out) {
  for_tiles(rows, [&](int64_t row, int64_t height) {
    TileOutput tile = out;
    tile.c += row * out.stride;
    kTiles<TileSource::kRows>[height - 1]({.a = a + row * a_stride,
                                           .a_stride = a_stride,
                                           .b = panel,
                                           .b_stride = kPanel,
                                           .k = k,
                                           .ahead = panel,
                                           .ahead_step = 0},
                                          tile);
  });
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
inline void multiply_strip(const float* strip, int64_t rows, const float* panel, int64_t k, const TileOutput& out) {
  kTiles<TileSource::kColumns>[rows - 1](
      {.a = strip, .a_stride = kTileRows, .b = panel, .b_stride = kPanel, .k = k, .ahead = panel, .ahead_step = 0},
      out);
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
