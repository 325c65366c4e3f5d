#include "kernels/masked_item_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "kernels/cpu/carver.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/masked_item_loss.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"
#include "kernels/cpu/gemm_tile-inl.h"
#include "kernels/cpu/lanes-inl.h"

// The catalogue is cut into tiles of kTileItems items, the rows into chunks, a chunk into groups of kGroupRows. For a
// chunk, one after the other:
//
//   score    tasks over (tile, group): z = hidden table^T + bias; top = max of z over the tile;
//            e = exp(z - top); total = sum of e; pull = e table. All of it while the tile is in the cache.
//   combine  tasks over rows: with all tops and totals of a row known, its loss and, for each tile, the factor
//            exp(top - maximum) / sum that turns e into softmax; dhidden += sum over tiles of factor * pull -
//            table[target]
//   scatter  tasks over tiles: dtable += e^T (factor * hidden), dbias += e^T factor, less the targets' own rows.
//
// So exp is taken once and no logit is touched again but as an operand of a product: only e (chunk x V) is kept.
HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kTileItems = 192;
constexpr int64_t kGroupRows = 96;
// Rows of a chunk: as many as keep e within kMostKept floats, but between these two.
constexpr int64_t kFewestRows = 96;
constexpr int64_t kMostRows = 480;
constexpr int64_t kMostKept = int64_t{8} << 20;

static_assert(kTileItems % kPanel == 0 && kTileItems % kTileRows == 0 && kGroupRows % kTileRows == 0);

struct Sizes {
  explicit Sizes(const MaskedItemLoss<float>& args)
      : items(args.table.rows()),
        columns(args.table.columns()),
        tiles(block_count(items, kTileItems)),
        tile_stride(block_count(tiles, 16) * 16),
        column_panels(block_count(columns, kPanel)),
        has_gradients(static_cast<bool>(args.dhidden)) {
    const int64_t fitting = kMostKept / (tiles * kTileItems) / kFewestRows * kFewestRows;
    chunk_rows = std::min(std::clamp(fitting, kFewestRows, kMostRows), args.hidden.rows());
  }
  int64_t items, columns, tiles, tile_stride, column_panels, chunk_rows;
  bool has_gradients;

  int64_t items_in(int64_t tile) const { return std::min(kTileItems, items - tile * kTileItems); }
};

struct Workspace {
  float* item_panels;    // table^T, one panel after the other
  float* column_panels;  // table, tile by tile
  float* kept;           // (tiles, chunk rows, kTileItems) e; without gradients (thread, kGroupRows, kTileItems)
  float* pulls;          // (tiles, chunk rows, C)
  float* tops;           // (chunk rows, tile_stride), later the factors
  float* totals;         // (chunk rows, tile_stride)
  float* target_logits;  // (chunk rows)
  float* scaled_hidden;  // (thread, packed chunk rows x C)
  float* factors;        // (thread, chunk rows)
  int64_t scaled_size;
};

Workspace carve_workspace(const Sizes& sizes, Carver& carver) {
  Workspace work{};
  work.item_panels = carver.take<float>(packed_size(sizes.columns, sizes.items));
  work.tops = carver.take<float>(sizes.chunk_rows * sizes.tile_stride);
  work.totals = carver.take<float>(sizes.chunk_rows * sizes.tile_stride);
  work.target_logits = carver.take<float>(sizes.chunk_rows);
  if (!sizes.has_gradients) {
    work.kept = carver.take<float>(thread_count() * kGroupRows * kTileItems);
    return work;
  }
  work.kept = carver.take<float>(sizes.tiles * sizes.chunk_rows * kTileItems);
  work.pulls = carver.take<float>(sizes.tiles * sizes.chunk_rows * sizes.columns);
  work.column_panels = carver.take<float>(packed_size(sizes.items, sizes.columns));
  work.scaled_size = packed_size(sizes.chunk_rows, sizes.columns);
  work.scaled_hidden = carver.take<float>(thread_count() * work.scaled_size);
  work.factors = carver.take<float>(thread_count() * sizes.chunk_rows);
  return work;
}

// A launch and its chunk of rows [first, first + rows).
struct Chunk {
  const MaskedItemLoss<float>& args;
  const Sizes& sizes;
  const Workspace& work;
  int64_t first, rows;

  float* kept(int64_t tile, int64_t row) const { return work.kept + (tile * sizes.chunk_rows + row) * kTileItems; }
  float* pull(int64_t tile, int64_t row) const { return work.pulls + (tile * sizes.chunk_rows + row) * sizes.columns; }
  // Panel `panel` of the table's columns, `items` of the tile deep.
  float* column_panel(int64_t tile, int64_t panel) const {
    return work.column_panels + tile * kTileItems * sizes.column_panels * kPanel +
           panel * kPanel * sizes.items_in(tile);
  }
};

void pack_table(const MaskedItemLoss<float>& args, const Sizes& sizes, const Workspace& work) {
  const Chunk all{args, sizes, work, 0, 0};
  parallel_for(sizes.tiles, [&](int64_t tile) HWY_ATTR {
    const int64_t begin = tile * kTileItems, end = begin + sizes.items_in(tile);
    for (int64_t item = begin; item < end; item += kPanel) {
      pack_panel_transposed(args.table.row(item), sizes.columns, sizes.columns, std::min(kPanel, end - item),
                            work.item_panels + item * sizes.columns);
    }
    if (!sizes.has_gradients) return;
    for (int64_t panel = 0; panel < sizes.column_panels; ++panel) {
      const int64_t column = panel * kPanel;
      pack_panel(args.table.row(begin) + column, sizes.columns, end - begin, std::min(kPanel, sizes.columns - column),
                 all.column_panel(tile, panel));
    }
  });
}

// Memory that comes into L2 while micro-tiles multiply: each takes one cache line a step over its depth.
class Ahead {
 public:
  Ahead(const float* begin, int64_t floats) : next_(begin), end_(begin + floats) {}
  void fetch_with(TileInput& input) {
    const bool any = next_ < end_;
    input.ahead = any ? next_ : input.b;
    input.ahead_step = any ? kLine : 0;
    if (any) next_ += input.k * kLine;
  }

 private:
  static constexpr int64_t kLine = kAlignment / static_cast<int64_t>(sizeof(float));
  const float *next_, *end_;
};

HWY_INLINE float greatest(const float* z, int64_t count) {
  const Floats d;
  const auto lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto even = lowest, odd = lowest;
  int64_t i = 0;
  for (; i + 2 * kFloatLanes <= count; i += 2 * kFloatLanes) {
    even = hn::Max(even, hn::LoadU(d, z + i));
    odd = hn::Max(odd, hn::LoadU(d, z + i + kFloatLanes));
  }
  float result = hn::GetLane(hn::MaxOfLanes(d, hn::Max(even, odd)));
  for (; i < count; ++i) result = std::max(result, z[i]);
  return result;
}

// z = exp(z - top); returns the sum.
HWY_INLINE float exponentiate(float* z, int64_t count, float top) {
  const Floats d;
  const auto shift = hn::Set(d, top);
  auto sum = hn::Zero(d);
  for_lanes(0, count, [&](int64_t i, auto lanes) HWY_ATTR {
    const auto value = exp_nonpositive(d, hn::Sub(lanes.load(z + i), shift));
    lanes.store(value, z + i);
    sum = hn::Add(sum, lanes.zero_others(value));
  });
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void score(const Chunk& chunk, int64_t tile, int64_t begin, float* z) {
  const auto& [args, sizes, work, first, chunk_rows] = chunk;
  const int64_t rows = std::min(kGroupRows, chunk_rows - begin), columns = sizes.columns;
  const int64_t first_item = tile * kTileItems, items = sizes.items_in(tile);
  for (int64_t item = 0; item < items; item += kPanel) {
    multiply_panel(args.hidden.row(first + begin), columns, rows, work.item_panels + (first_item + item) * columns,
                   columns,
                   {.c = z + item,
                    .stride = kTileItems,
                    .columns = std::min(kPanel, items - item),
                    .bias = args.bias ? args.bias.data() + first_item + item : nullptr,
                    .add = false});
  }
  for (int64_t row = begin; row < begin + rows; ++row) {
    float* z_row = z + (row - begin) * kTileItems;
    const int64_t target = args.targets[first + row] - first_item;
    if (target >= 0 && target < items) work.target_logits[row] = z_row[target];
    const float top = greatest(z_row, items);
    work.tops[row * sizes.tile_stride + tile] = top;
    work.totals[row * sizes.tile_stride + tile] = exponentiate(z_row, items, top);
  }
  if (!sizes.has_gradients) return;
  Ahead ahead(z + kGroupRows * kTileItems, kGroupRows * kTileItems);
  for_tiles(rows, [&](int64_t row, int64_t height) {
    for (int64_t panel = 0; panel < sizes.column_panels; ++panel) {
      const int64_t column = panel * kPanel;
      TileInput input{.a = z + row * kTileItems,
                      .a_stride = kTileItems,
                      .b = chunk.column_panel(tile, panel),
                      .b_stride = kPanel,
                      .k = items,
                      .ahead = nullptr,
                      .ahead_step = 0};
      ahead.fetch_with(input);
      kTiles<TileSource::kRows>[height - 1](input, {.c = chunk.pull(tile, begin + row) + column,
                                                    .stride = columns,
                                                    .columns = std::min(kPanel, columns - column),
                                                    .bias = nullptr,
                                                    .add = false});
    }
  });
}

// The loss of a row; its tops become the tiles' factors.
void finish_row(const Chunk& chunk, int64_t row) {
  const Floats d;
  const Sizes& sizes = chunk.sizes;
  float* tops = chunk.work.tops + row * sizes.tile_stride;
  const float* totals = chunk.work.totals + row * sizes.tile_stride;
  if (chunk.args.targets[chunk.first + row] < 0) {
    std::fill(tops, tops + sizes.tiles, 0.0f);
    chunk.args.row_losses[chunk.first + row] = 0;
    return;
  }
  const float maximum = greatest(tops, sizes.tiles);
  exponentiate(tops, sizes.tiles, maximum);
  double sum = 0;
  for (int64_t tile = 0; tile < sizes.tiles; ++tile) sum += double{tops[tile]} * totals[tile];
  chunk.args.row_losses[chunk.first + row] =
      static_cast<float>(std::log(sum) + (double{maximum} - chunk.work.target_logits[row]));
  const auto scale = hn::Set(d, static_cast<float>(1 / sum));
  for_lanes(0, sizes.tiles,
            [=](int64_t i, auto lanes) HWY_ATTR { lanes.store(hn::Mul(lanes.load(tops + i), scale), tops + i); });
}

void add_row_gradient(const Chunk& chunk, int64_t row) {
  if (chunk.args.targets[chunk.first + row] < 0) return;
  const Floats d;
  const Sizes& sizes = chunk.sizes;
  const float* factors = chunk.work.tops + row * sizes.tile_stride;
  const float* pulls = chunk.pull(0, row);
  const int64_t stride = sizes.chunk_rows * sizes.columns;
  const float* target = chunk.args.table.row(chunk.args.targets[chunk.first + row]);
  float* dhidden = chunk.args.dhidden.row(chunk.first + row);
  for_lanes(0, sizes.columns, [&](int64_t c, auto lanes) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t tile = 0; tile < sizes.tiles; ++tile) {
      sum = hn::MulAdd(hn::Set(d, factors[tile]), lanes.load(pulls + tile * stride + c), sum);
    }
    lanes.store(hn::Add(lanes.load(dhidden + c), hn::Sub(sum, lanes.load(target + c))), dhidden + c);
  });
}

// The factors of a tile's rows, and factor * hidden packed as pack_panel packs.
void pack_scaled_hidden(const Chunk& chunk, int64_t tile, float* factors, float* packed) {
  const Floats d;
  const int64_t columns = chunk.sizes.columns;
  for (int64_t row = 0; row < chunk.rows; ++row) {
    factors[row] = chunk.work.tops[row * chunk.sizes.tile_stride + tile];
    const auto factor = hn::Set(d, factors[row]);
    const float* hidden = chunk.args.hidden.row(chunk.first + row);
    for (int64_t begin = 0; begin < columns; begin += kPanel) {
      float* to = packed + begin * chunk.rows + row * kPanel;
      const int64_t count = std::min(kPanel, columns - begin);
      for_lanes(0, count, [=](int64_t c, auto lanes) HWY_ATTR {
        lanes.store(hn::Mul(factor, lanes.load(hidden + begin + c)), to + c);
      });
      std::fill(to + count, to + kPanel, 0.0f);
    }
  }
}

// dbias of items [item, item + kVectors vectors) or fewer at the end of the catalogue.
template <int kVectors, class Lanes>
HWY_INLINE void add_bias_gradient(const Chunk& chunk, int64_t tile, int64_t item, const float* factors, Lanes lanes) {
  const Floats d;
  FloatVector sums[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
  for (int64_t row = 0; row < chunk.rows; ++row) {
    const auto factor = hn::Set(d, factors[row]);
    const float* e = chunk.kept(tile, row) + item;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::MulAdd(factor, lanes.load(e + v * kFloatLanes), sums[v]);
  }
  float* dbias = chunk.args.dbias.data() + tile * kTileItems + item;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v, dbias += kFloatLanes) lanes.store(hn::Add(lanes.load(dbias), sums[v]), dbias);
}

void add_bias_gradient(const Chunk& chunk, int64_t tile, const float* factors) {
  constexpr int kVectors = 64 / kFloatLanes;
  const int64_t items = chunk.sizes.items_in(tile);
  int64_t item = 0;
  for (; item + 64 <= items; item += 64) add_bias_gradient<kVectors>(chunk, tile, item, factors, AllLanes());
  for_lanes(item, items, [&](int64_t i, auto lanes) HWY_ATTR { add_bias_gradient<1>(chunk, tile, i, factors, lanes); });
}

void subtract_targets(const Chunk& chunk, int64_t tile) {
  const MaskedItemLoss<float>& args = chunk.args;
  const int64_t first_item = tile * kTileItems, last_item = first_item + chunk.sizes.items_in(tile);
  for (int64_t row = chunk.first; row < chunk.first + chunk.rows; ++row) {
    const int64_t target = args.targets[row];
    if (target < first_item || target >= last_item) continue;
    const float* from = args.hidden.row(row);
    float* to = args.dtable.row(target);
    for_lanes(0, chunk.sizes.columns, [=](int64_t c, auto lanes) HWY_ATTR {
      lanes.store(hn::Sub(lanes.load(to + c), lanes.load(from + c)), to + c);
    });
    if (args.dbias) args.dbias[target] -= 1;
  }
}

void scatter(const Chunk& chunk, int64_t tile, int thread) {
  const auto& [args, sizes, work, first, rows] = chunk;
  const int64_t first_item = tile * kTileItems, items = sizes.items_in(tile), columns = sizes.columns;
  float* factors = work.factors + thread * sizes.chunk_rows;
  float* hidden = work.scaled_hidden + thread * work.scaled_size;
  pack_scaled_hidden(chunk, tile, factors, hidden);
  if (args.dbias) add_bias_gradient(chunk, tile, factors);
  Ahead ahead(chunk.kept(tile + 1, 0), tile + 1 < sizes.tiles ? rows * kTileItems : 0);
  for_tiles(items, [&](int64_t item, int64_t height) {
    for (int64_t column = 0; column < columns; column += kPanel) {
      TileInput input{.a = chunk.kept(tile, 0) + item,
                      .a_stride = kTileItems,
                      .b = hidden + column * rows,
                      .b_stride = kPanel,
                      .k = rows,
                      .ahead = nullptr,
                      .ahead_step = 0};
      ahead.fetch_with(input);
      kTiles<TileSource::kColumns>[height - 1](input, {.c = args.dtable.row(first_item + item) + column,
                                                       .stride = columns,
                                                       .columns = std::min(kPanel, columns - column),
                                                       .bias = nullptr,
                                                       .add = true});
    }
  });
  subtract_targets(chunk, tile);
}

void run_chunk(const Chunk& chunk) {
  const Sizes& sizes = chunk.sizes;
  const int64_t groups = block_count(chunk.rows, kGroupRows);
  parallel_for_with_thread(sizes.tiles * groups, [&](int64_t task, int thread) HWY_ATTR {
    const int64_t tile = task / groups, begin = task % groups * kGroupRows;
    score(chunk, tile, begin,
          sizes.has_gradients ? chunk.kept(tile, begin) : chunk.work.kept + thread * kGroupRows * kTileItems);
  });
  parallel_blocks(chunk.rows, 16, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) finish_row(chunk, row);
    if (!sizes.has_gradients) return;
    for (int64_t row = begin; row < end; ++row) add_row_gradient(chunk, row);
  });
  if (!sizes.has_gradients) return;
  parallel_for_with_thread(sizes.tiles, [&](int64_t tile, int thread) HWY_ATTR { scatter(chunk, tile, thread); });
}

int64_t workspace_bytes(const MaskedItemLoss<float>& args) {
  Carver measure;
  carve_workspace(Sizes(args), measure);
  return measure.used;
}

void loss_and_gradients(CpuStream stream, const MaskedItemLoss<float>& args) {
  const int64_t rows = args.hidden.rows();
  args.loss[0] = 0;
  if (rows == 0) return;
  const Sizes sizes(args);
  const Workspace work = carve_scratch(*stream.scratch, [&](Carver& carver) { return carve_workspace(sizes, carver); });
  pack_table(args, sizes, work);
  for (int64_t first = 0; first < rows; first += sizes.chunk_rows) {
    run_chunk({args, sizes, work, first, std::min(sizes.chunk_rows, rows - first)});
  }
  for (int64_t row = 0; row < rows; ++row) args.loss[0] += args.row_losses[row];
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(loss_and_gradients);
HWY_EXPORT(workspace_bytes);

int64_t scratch_bytes(CpuStream, const MaskedItemLoss<float>& args) {
  return HWY_DYNAMIC_DISPATCH(workspace_bytes)(args);
}

void launch(CpuStream stream, const MaskedItemLoss<float>& args) {
  CHECK(!args.tf32, "the CPU does not round to TF32");
  HWY_DYNAMIC_DISPATCH(loss_and_gradients)(stream, args);
}

}  // namespace itemloom
#endif
