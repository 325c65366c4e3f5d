// The inner pieces of matrix products, for kernels that cut their own tiles (the GEMM, the masked-item loss). Include
// it after <hwy/highway.h> inside a file that foreach_target.h includes again for each target.
//
// A micro-tile is kTileRows rows of C (or fewer) by one panel, kPanel columns of B: its sums stay in registers over all
// of k, A is read in place by broadcast. B is packed into panels (gemm_pack-inl.h) where it is used often, or read in
// place where it is used once. Most callers want multiply_panel; those that know what their thread will read next call
// kTiles themselves and have it fetched meanwhile, which is worth up to a fifth when operands come from memory.
//
// Every element of C is the sum over k in ascending order from zero, then + bias, then + C, whatever tile it falls
// into: the same bits for any cutting into rows and columns.
#if defined(ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H
#undef ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H
#else
#define ITEMLOOM_KERNELS_CPU_GEMM_TILE_INL_H
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "kernels/cpu/gemm_pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

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
  kColumns,  // A(i, k) is a[k * a_stride + i]: transposed
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

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif  // toggled guard
