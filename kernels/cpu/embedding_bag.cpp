#include "kernels/embedding_bag.h"

#include <algorithm>

#include "core/parallel.h"
#include "kernels/cpu/carver.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding_bag.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// A run of occurrences of one id longer than this is cut into blocks of this many, so that an id that fills much of a
// batch (a mask token) is summed by several threads.
constexpr int64_t kRunBlock = 256;
// Blocks are handed out in groups of at least this many occurrences.
constexpr int64_t kTaskOccurrences = 512;

// The rows to be summed: source rows `rows[0 .. count)`, each times its factor where factors are given.
template <class Index>
struct RowList {
  Matrix<const float> source;
  const Index* rows;
  const float* factors;
  int64_t count;
};

// store(c, lanes, sum of column c on) for every column; rows are added in order, starting from zero.
template <bool kFactors, class Index, class Store>
HWY_INLINE void sum_rows(const RowList<Index>& list, const Store& store) {
  const Floats d;
  constexpr int kVectors = 64 / kFloatLanes;
  const int64_t columns = list.source.columns();
  int64_t c = 0;
  for (; c + 64 <= columns; c += 64) {
    FloatVector sums[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
    for (int64_t i = 0; i < list.count; ++i) {
      const float* row = list.source.row(list.rows[i]) + c;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const auto value = hn::LoadU(d, row + v * kFloatLanes);
        sums[v] = kFactors ? hn::MulAdd(hn::Set(d, list.factors[i]), value, sums[v]) : hn::Add(sums[v], value);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(c + v * kFloatLanes, AllLanes(), sums[v]);
  }
  for_lanes(c, columns, [&](int64_t column, auto lanes) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t i = 0; i < list.count; ++i) {
      const auto value = lanes.load(list.source.row(list.rows[i]) + column);
      sum = kFactors ? hn::MulAdd(hn::Set(d, list.factors[i]), value, sum) : hn::Add(sum, value);
    }
    store(column, lanes, sum);
  });
}

template <class Index, class Store>
HWY_INLINE void sum_rows(const RowList<Index>& list, const Store& store) {
  if (list.factors) {
    sum_rows<true>(list, store);
  } else {
    sum_rows<false>(list, store);
  }
}

float mean_scale(BagMode mode, int64_t bag_size) {
  return mode == BagMode::kMean && bag_size > 0 ? 1.0f / static_cast<float>(bag_size) : 1.0f;
}

void sum_bag(const EmbeddingBagForward<float>& args, int64_t bag) {
  const int64_t begin = args.bag_offsets ? args.bag_offsets[bag] : bag;
  const int64_t end = args.bag_offsets ? args.bag_offsets[bag + 1] : bag + 1;
  float* y = args.y.row(bag);
  const auto scale = hn::Set(Floats(), mean_scale(args.mode, end - begin));
  const float* factors = args.weights ? args.weights.data() + begin : nullptr;
  sum_rows(RowList<int32_t>{args.table, args.ids.data() + begin, factors, end - begin},
           [=](int64_t c, auto lanes, FloatVector sum) HWY_ATTR { lanes.store(hn::Mul(sum, scale), y + c); });
}

void sum_bags(CpuStream, const EmbeddingBagForward<float>& args) {
  const int64_t columns = args.y.columns();
  const bool is_lookup = !args.bag_offsets && !args.weights;
  parallel_blocks(args.y.rows(), rows_per_task(columns), [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t bag = begin; bag < end; ++bag) {
      if (is_lookup) {
        const float* row = args.table.row(args.ids[bag]);
        float* y = args.y.row(bag);
        for_lanes(0, columns, [=](int64_t c, auto lanes) HWY_ATTR { lanes.store(lanes.load(row + c), y + c); });
      } else {
        sum_bag(args, bag);
      }
    }
  });
}

// Occurrences [begin, end) of the sorted list, all of one id: its whole run, which is added into the id's row of the
// table, or a block of a long run, whose sum goes to a partial row.
struct RunBlock {
  int64_t begin, end;
  float* to;
  bool is_partial;
};
struct LongRun {
  const float* partials;
  int64_t count;
  float* to;
};

// The occurrences sorted by id (stable) and cut into blocks of runs. Everything lies in the launch's scratch memory.
struct SortedRuns {
  int64_t* places;   // (R) where the next occurrence of an id goes
  int64_t* rows;     // (n) row of dy of each sorted occurrence
  float* factors;    // (n) or null
  float* partials;   // one row of C a block of a long run
  RunBlock* blocks;  // at most min(n, R) + n / kRunBlock
  int64_t* tasks;    // first block of each task, and the number of blocks behind the last
  LongRun* long_runs;
  int64_t task_count, long_run_count;
};

SortedRuns carve_runs(const EmbeddingBagBackward<float>& args, Carver& carver) {
  const int64_t n = args.ids.size(), table_rows = args.dtable.rows(), long_blocks = 2 * (n / kRunBlock);
  const bool has_factors = args.weights || (args.bag_offsets && args.mode == BagMode::kMean);
  SortedRuns runs{};
  runs.places = carver.take<int64_t>(table_rows);
  runs.rows = carver.take<int64_t>(n);
  if (has_factors) runs.factors = carver.take<float>(n);
  runs.partials = carver.take<float>(long_blocks * args.dtable.columns());
  runs.blocks = carver.take<RunBlock>(std::min(n, table_rows) + n / kRunBlock);
  runs.tasks = carver.take<int64_t>(n / kTaskOccurrences + 2);
  runs.long_runs = carver.take<LongRun>(n / kRunBlock);
  return runs;
}

int64_t runs_bytes(const EmbeddingBagBackward<float>& args) {
  Carver measure;
  carve_runs(args, measure);
  return measure.used;
}

// Turns the counts in `places` into first places, and lists blocks, tasks and long runs.
void cut_runs(const EmbeddingBagBackward<float>& args, SortedRuns& runs) {
  int64_t place = 0, block = 0, in_task = 0;
  float* partial = runs.partials;
  runs.tasks[0] = 0;
  auto add_block = [&](int64_t begin, int64_t end, float* to, bool is_partial) {
    runs.blocks[block++] = {begin, end, to, is_partial};
    in_task += end - begin;
    if (in_task < kTaskOccurrences) return;
    runs.tasks[++runs.task_count] = block;
    in_task = 0;
  };
  for (int64_t id = 0; id < args.dtable.rows(); ++id) {
    const int64_t begin = place, end = begin + runs.places[id];
    runs.places[id] = begin;
    place = end;
    if (end - begin > kRunBlock) {
      runs.long_runs[runs.long_run_count++] = {partial, block_count(end - begin, kRunBlock), args.dtable.row(id)};
      for (int64_t first = begin; first < end; first += kRunBlock, partial += args.dtable.columns()) {
        add_block(first, std::min(end, first + kRunBlock), partial, true);
      }
    } else if (end > begin) {
      add_block(begin, end, args.dtable.row(id), false);
    }
  }
  if (in_task > 0) runs.tasks[++runs.task_count] = block;
}

SortedRuns sort_occurrences(CpuStream stream, const EmbeddingBagBackward<float>& args) {
  SortedRuns runs = carve_scratch(*stream.scratch, [&](Carver& carver) { return carve_runs(args, carver); });
  std::fill_n(runs.places, args.dtable.rows(), int64_t{0});
  for (int32_t id : args.ids) ++runs.places[id];
  cut_runs(args, runs);
  for (int64_t bag = 0; bag < args.dy.rows(); ++bag) {
    const int64_t begin = args.bag_offsets ? args.bag_offsets[bag] : bag;
    const int64_t end = args.bag_offsets ? args.bag_offsets[bag + 1] : bag + 1;
    const float scale = mean_scale(args.mode, end - begin);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = runs.places[args.ids[i]]++;
      runs.rows[place] = bag;
      if (runs.factors) runs.factors[place] = args.weights ? scale * args.weights[i] : scale;
    }
  }
  return runs;
}

void sum_block(const EmbeddingBagBackward<float>& args, const SortedRuns& runs, const RunBlock& block) {
  const float* factors = runs.factors ? runs.factors + block.begin : nullptr;
  const RowList<int64_t> list{args.dy, runs.rows + block.begin, factors, block.end - block.begin};
  float* to = block.to;
  if (block.is_partial) {
    sum_rows(list, [=](int64_t c, auto lanes, FloatVector sum) HWY_ATTR { lanes.store(sum, to + c); });
  } else {
    sum_rows(list, [=](int64_t c, auto lanes, FloatVector sum)
                       HWY_ATTR { lanes.store(hn::Add(lanes.load(to + c), sum), to + c); });
  }
}

void add_bags(CpuStream stream, const EmbeddingBagBackward<float>& args) {
  const int64_t columns = args.dtable.columns();
  const SortedRuns runs = sort_occurrences(stream, args);
  parallel_for(runs.task_count, [&](int64_t task) HWY_ATTR {
    for (int64_t block = runs.tasks[task]; block < runs.tasks[task + 1]; ++block) {
      sum_block(args, runs, runs.blocks[block]);
    }
  });
  parallel_for(runs.long_run_count, [&](int64_t index) HWY_ATTR {
    const LongRun& run = runs.long_runs[index];
    for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
      auto sum = hn::Zero(Floats());
      for (int64_t part = 0; part < run.count; ++part)
        sum = hn::Add(sum, lanes.load(run.partials + part * columns + c));
      lanes.store(hn::Add(lanes.load(run.to + c), sum), run.to + c);
    });
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(sum_bags);
HWY_EXPORT(add_bags);
HWY_EXPORT(runs_bytes);

int64_t scratch_bytes(CpuStream, const EmbeddingBagBackward<float>& args) {
  return HWY_DYNAMIC_DISPATCH(runs_bytes)(args);
}

void launch(CpuStream stream, const EmbeddingBagForward<float>& args) {
  HWY_DYNAMIC_DISPATCH(sum_bags)(stream, args);
}

void launch(CpuStream stream, const EmbeddingBagBackward<float>& args) {
  HWY_DYNAMIC_DISPATCH(add_bags)(stream, args);
}

}  // namespace itemloom
#endif
