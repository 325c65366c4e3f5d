#include "kernels/masked_item_loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/masked_item_loss.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"
#include "kernels/cpu/gemm_tile-inl.h"

// Rows are worked through in chunks of kChunk. A chunk's logits (kChunk x V) stay in scratch from the first product to
// the last: they become probabilities, then their gradient dz, in place. A phase's tasks write disjoint places:
//
//   1  tasks over items: logits = hidden table^T + bias
//   2  tasks over rows:  softmax, loss, dz = softmax - onehot, dhidden += dz table
//   3  tasks over items: dtable += dz^T hidden, dbias += column sums of dz
//
// Chunks come one after the other, so dtable and dbias are summed in the order of the rows.
HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

constexpr int64_t kChunk = 240;
constexpr int64_t kRowTask = 24;
constexpr int64_t kItemTask = 96;
constexpr int64_t kLogitTask = 512;
constexpr int64_t kDepth = 512;

static_assert(kLogitTask % kPanel == 0 && kItemTask % kTileRows == 0);

// Scratch memory of a launch, in floats.
struct LossWorkspace {
  int64_t logit_stride;
  float* logits;   // (kChunk, logit_stride)
  float* table_t;  // table^T, packed: panels over items
  float* table;    // table, packed in depth blocks over items
  float* hidden;   // the chunk's hidden rows, packed
  float* strips;   // one strip a thread
};

int64_t round_to_line(int64_t floats) {
  return block_count(floats, 16) * 16;
}

LossWorkspace take_workspace(CpuStream stream, const MaskedItemLoss& args) {
  const int64_t items = args.table.rows(), width = args.table.columns();
  const int64_t rows = std::min(kChunk, args.hidden.rows());
  LossWorkspace work{};
  // An odd number of cache lines, so that a column of the chunk does not fall into few cache sets.
  work.logit_stride = (block_count(items, 16) | 1) * 16;
  const int64_t logits = rows * work.logit_stride, table_t = round_to_line(packed_size(width, items));
  const bool gradients = static_cast<bool>(args.dhidden);
  const int64_t table = gradients ? round_to_line(packed_size(items, width)) : 0;
  const int64_t hidden = gradients ? round_to_line(packed_size(rows, width)) : 0;
  const int64_t strip = gradients ? round_to_line(strip_size(rows)) : 0;
  work.logits = stream.scratch->take<float>(logits + table_t + table + hidden + thread_count() * strip);
  work.table_t = work.logits + logits;
  work.table = work.table_t + table_t;
  work.hidden = work.table + table;
  work.strips = work.hidden + hidden;
  return work;
}

void pack_table(const MaskedItemLoss& args, const LossWorkspace& work) {
  const int64_t items = args.table.rows(), width = args.table.columns();
  parallel_for(block_count(items, kPanel), [&](int64_t panel) HWY_ATTR {
    const int64_t item = panel * kPanel;
    pack_panel_transposed(args.table.row(item), width, width, std::min(kPanel, items - item),
                          work.table_t + item * width);
  });
  if (!args.dhidden) return;
  const int64_t padded = block_count(width, kPanel) * kPanel;
  parallel_for(block_count(items, kDepth), [&](int64_t block) HWY_ATTR {
    const int64_t item = block * kDepth, depth = std::min(kDepth, items - item);
    for (int64_t column = 0; column < width; column += kPanel) {
      pack_panel(args.table.row(item) + column, width, depth, std::min(kPanel, width - column),
                 work.table + item * padded + column * depth);
    }
  });
}

void form_logits(const MaskedItemLoss& args, const LossWorkspace& work, int64_t first, int64_t rows) {
  const int64_t items = args.table.rows(), width = args.table.columns();
  parallel_for(block_count(items, kLogitTask), [&](int64_t task) HWY_ATTR {
    const int64_t last = std::min(items, (task + 1) * kLogitTask);
    for (int64_t item = task * kLogitTask; item < last; item += kPanel) {
      multiply_panel(args.hidden.row(first), width, rows, work.table_t + item * width, width,
                     {.c = work.logits + item,
                      .stride = work.logit_stride,
                      .columns = std::min(kPanel, items - item),
                      .bias = args.bias ? args.bias.data() + item : nullptr,
                      .add = false});
    }
  });
}

HWY_INLINE float greatest(const float* z, int64_t count) {
  const TileTag d;
  auto best = hn::Set(d, -__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) best = hn::Max(best, hn::LoadU(d, z + i));
  float result = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) result = std::max(result, z[i]);
  return result;
}

// z = exp(z - shift); returns the sum.
HWY_INLINE double exponentiate(float* z, int64_t count, float shift) {
  const TileTag d;
  const auto offset = hn::Set(d, shift);
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto value = exp_nonpositive(d, hn::Sub(hn::LoadU(d, z + i), offset));
    hn::StoreU(value, d, z + i);
    sum = hn::Add(sum, value);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sum));
  if (i < count) {
    HWY_ALIGN float tail[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) tail[lane] = i + lane < count ? z[i + lane] : shift;
    hn::Store(exp_nonpositive(d, hn::Sub(hn::Load(d, tail), offset)), d, tail);
    for (int64_t lane = 0; i + lane < count; ++lane) {
      z[i + lane] = tail[lane];
      total += tail[lane];
    }
  }
  return total;
}

HWY_INLINE void scale_row(float* z, int64_t count, float factor) {
  const TileTag d;
  const auto scale = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, z + i), scale), d, z + i);
  for (; i < count; ++i) z[i] *= factor;
}

// Softmax and loss of rows [begin, end) of the chunk; with gradients also dz and dhidden.
void finish_rows(const MaskedItemLoss& args, const LossWorkspace& work, int64_t first, int64_t begin, int64_t end) {
  const int64_t items = args.table.rows(), width = args.table.columns();
  for (int64_t row = begin; row < end; ++row) {
    float* z = work.logits + row * work.logit_stride;
    const int32_t target = args.targets[first + row];
    const float target_logit = z[target], shift = greatest(z, items);
    const double sum = exponentiate(z, items, shift);
    args.row_losses[first + row] = static_cast<float>(std::log(sum) + (double{shift} - target_logit));
    if (!args.dhidden) continue;
    scale_row(z, items, static_cast<float>(1 / sum));
    z[target] -= 1;
  }
  if (!args.dhidden) return;
  const int64_t padded = block_count(width, kPanel) * kPanel;
  for (int64_t item = 0; item < items; item += kDepth) {
    const int64_t depth = std::min(kDepth, items - item);
    for (int64_t column = 0; column < width; column += kPanel) {
      multiply_panel(work.logits + begin * work.logit_stride + item, work.logit_stride, end - begin,
                     work.table + item * padded + column * depth, depth,
                     {.c = args.dhidden.row(first + begin) + column,
                      .stride = width,
                      .columns = std::min(kPanel, width - column),
                      .bias = nullptr,
                      .add = true});
    }
  }
}

// dtable and dbias of items [begin, end).
void finish_items(const MaskedItemLoss& args, const LossWorkspace& work, int64_t rows, int64_t begin, int64_t end,
                  float* strip) {
  const int64_t width = args.table.columns();
  for (int64_t item = begin; item < end; item += kTileRows) {
    const int64_t count = std::min<int64_t>(kTileRows, end - item);
    pack_strip(work.logits + item, work.logit_stride, rows, count, strip);
    for (int64_t column = 0; column < width; column += kPanel) {
      multiply_strip(strip, count, work.hidden + column * rows, rows,
                     {.c = args.dtable.row(item) + column,
                      .stride = width,
                      .columns = std::min(kPanel, width - column),
                      .bias = nullptr,
                      .add = true});
    }
  }
  if (!args.dbias) return;
  HWY_ALIGN float sums[kItemTask] = {};
  const TileTag d;
  const int64_t count = end - begin;
  for (int64_t row = 0; row < rows; ++row) {
    const float* dz = work.logits + row * work.logit_stride + begin;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      hn::Store(hn::Add(hn::Load(d, sums + i), hn::LoadU(d, dz + i)), d, sums + i);
    for (; i < count; ++i) sums[i] += dz[i];
  }
  for (int64_t i = 0; i < count; ++i) args.dbias[begin + i] += sums[i];
}

void loss_and_gradients(CpuStream stream, const MaskedItemLoss& args) {
  const int64_t total = args.hidden.rows(), items = args.table.rows(), width = args.table.columns();
  args.loss[0] = 0;
  if (total == 0) return;
  const LossWorkspace work = take_workspace(stream, args);
  pack_table(args, work);
  for (int64_t first = 0; first < total; first += kChunk) {
    const int64_t rows = std::min(kChunk, total - first);
    form_logits(args, work, first, rows);
    parallel_for(block_count(rows, kRowTask), [&](int64_t task) HWY_ATTR {
      finish_rows(args, work, first, task * kRowTask, std::min(rows, (task + 1) * kRowTask));
    });
    if (!args.dhidden) continue;
    parallel_for(block_count(width, kPanel), [&](int64_t panel) HWY_ATTR {
      const int64_t column = panel * kPanel;
      pack_panel(args.hidden.row(first) + column, width, rows, std::min(kPanel, width - column),
                 work.hidden + column * rows);
    });
    const int64_t strip = round_to_line(strip_size(std::min(kChunk, total)));
    parallel_for_with_thread(block_count(items, kItemTask), [&](int64_t task, int thread) HWY_ATTR {
      finish_items(args, work, rows, task * kItemTask, std::min(items, (task + 1) * kItemTask),
                   work.strips + thread * strip);
    });
  }
  for (int64_t row = 0; row < total; ++row) args.loss[0] += args.row_losses[row];
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(loss_and_gradients);

void launch(CpuStream stream, const MaskedItemLoss& args) {
  HWY_DYNAMIC_DISPATCH(loss_and_gradients)(stream, args);
}

}  // namespace itemloom
#endif
