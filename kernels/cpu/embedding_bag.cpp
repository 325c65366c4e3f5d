#include "kernels/embedding_bag.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding_bag.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

// Bags, and occurrences of the backward pass, that one task handles.
constexpr int64_t kBagBlock = 64;
constexpr int64_t kOccurrenceBlock = 256;

HWY_INLINE void add_scaled_row(const float* from, float scale, int64_t width, float* to) {
  const Floats d;
  const auto factor = hn::Set(d, scale);
  for_lanes(0, width, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(hn::MulAdd(factor, lanes.load(from + i), lanes.load(to + i)), to + i);
  });
}

void gather_bags(const EmbeddingBagForward& args) {
  const int64_t bags = args.y.rows(), width = args.table.columns();
  parallel_for(block_count(bags, kBagBlock), [&](int64_t block) HWY_ATTR {
    for (int64_t bag = block * kBagBlock; bag < std::min(bags, (block + 1) * kBagBlock); ++bag) {
      float* y = args.y.row(bag);
      if (!args.bag_offsets && !args.weights) {
        std::memcpy(y, args.table.row(args.ids[bag]), static_cast<size_t>(width) * sizeof(float));
        continue;
      }
      const int64_t begin = args.bag_offsets ? args.bag_offsets[bag] : bag;
      const int64_t end = args.bag_offsets ? args.bag_offsets[bag + 1] : bag + 1;
      const float scale = args.mode == BagMode::kMean && end > begin ? 1.0f / static_cast<float>(end - begin) : 1.0f;
      std::fill_n(y, width, 0.0f);
      for (int64_t i = begin; i < end; ++i) {
        add_scaled_row(args.table.row(args.ids[i]), scale * (args.weights ? args.weights[i] : 1.0f), width, y);
      }
    }
  });
}

// Occurrences ordered by id, and within an id by place: a counting sort.
struct SortedOccurrences {
  int32_t* places;  // (number of ids)
  int32_t* bags;    // (number of ids) the bag of each place, or null when a place is its own bag
  float* partials;  // (blocks, 2, C) sums of the runs that cross a block's ends
};

SortedOccurrences sort_occurrences(CpuStream stream, const EmbeddingBagBackward& args) {
  const int64_t count = args.ids.size(), rows = args.dtable.rows(), width = args.dtable.columns();
  const int64_t blocks = block_count(count, kOccurrenceBlock);
  static_assert(sizeof(int32_t) == sizeof(float));
  int32_t* memory = stream.scratch->take<int32_t>(rows + 1 + 2 * count + blocks * 2 * width);
  int32_t* starts = memory + 2 * count + blocks * 2 * width;
  SortedOccurrences sorted{.places = memory,
                           .bags = args.bag_offsets ? memory + count : nullptr,
                           .partials = reinterpret_cast<float*>(memory + 2 * count)};
  std::fill_n(starts, rows + 1, 0);
  for (int64_t i = 0; i < count; ++i) ++starts[args.ids[i] + 1];
  for (int64_t row = 0; row < rows; ++row) starts[row + 1] += starts[row];
  for (int64_t i = 0; i < count; ++i) sorted.places[starts[args.ids[i]]++] = static_cast<int32_t>(i);
  if (sorted.bags) {
    for (int64_t bag = 0; bag + 1 < args.bag_offsets.size(); ++bag) {
      std::fill(sorted.bags + args.bag_offsets[bag], sorted.bags + args.bag_offsets[bag + 1],
                static_cast<int32_t>(bag));
    }
  }
  return sorted;
}

HWY_INLINE void add_occurrence(const EmbeddingBagBackward& args, const SortedOccurrences& sorted, int64_t place,
                               float* to) {
  const int64_t bag = sorted.bags ? sorted.bags[place] : place;
  float scale = args.weights ? args.weights[place] : 1.0f;
  if (args.mode == BagMode::kMean && args.bag_offsets) {
    scale *= 1.0f / static_cast<float>(args.bag_offsets[bag + 1] - args.bag_offsets[bag]);
  }
  add_scaled_row(args.dy.row(bag), scale, args.dtable.columns(), to);
}

// The id at an end of the sorted list's block runs on in the next one.
HWY_INLINE bool crosses(const EmbeddingBagBackward& args, const SortedOccurrences& sorted, int64_t end) {
  return end > 0 && end < args.ids.size() && args.ids[sorted.places[end - 1]] == args.ids[sorted.places[end]];
}

// The sorted list is cut into fixed blocks. A run of one id inside a block is added straight into the table; a run that
// crosses an end (the mask's id may fill many blocks) goes into a partial sum, and the partial sums follow in order.
void scatter_bags(CpuStream stream, const EmbeddingBagBackward& args) {
  const int64_t count = args.ids.size(), width = args.dtable.columns();
  if (count == 0 || width == 0) return;
  const SortedOccurrences sorted = sort_occurrences(stream, args);
  const int64_t blocks = block_count(count, kOccurrenceBlock);
  parallel_for(blocks, [&](int64_t block) HWY_ATTR {
    const int64_t begin = block * kOccurrenceBlock, end = std::min(count, begin + kOccurrenceBlock);
    float* first_partial = sorted.partials + block * 2 * width;
    std::fill_n(first_partial, 2 * width, 0.0f);
    const int32_t first_id = args.ids[sorted.places[begin]], last_id = args.ids[sorted.places[end - 1]];
    const bool first_crosses = crosses(args, sorted, begin), last_crosses = crosses(args, sorted, end);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t place = sorted.places[i];
      const int32_t id = args.ids[place];
      float* to = args.dtable.row(id);
      if (first_crosses && id == first_id) {
        to = first_partial;
      } else if (last_crosses && id == last_id) {
        to = first_partial + width;
      }
      add_occurrence(args, sorted, place, to);
    }
  });
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * kOccurrenceBlock, end = std::min(count, begin + kOccurrenceBlock);
    const float* partial = sorted.partials + block * 2 * width;
    // A block filled by one crossing id has put all of it into the first sum or, where that end is closed, the second.
    if (crosses(args, sorted, begin))
      add_scaled_row(partial, 1, width, args.dtable.row(args.ids[sorted.places[begin]]));
    if (crosses(args, sorted, end)) {
      add_scaled_row(partial + width, 1, width, args.dtable.row(args.ids[sorted.places[end - 1]]));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(gather_bags);
HWY_EXPORT(scatter_bags);

void launch(CpuStream, const EmbeddingBagForward& args) {
  HWY_DYNAMIC_DISPATCH(gather_bags)(args);
}

void launch(CpuStream stream, const EmbeddingBagBackward& args) {
  HWY_DYNAMIC_DISPATCH(scatter_bags)(stream, args);
}

}  // namespace itemloom
#endif
