#include "kernels/top_k.h"

#include <algorithm>
#include <limits>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/top_k.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Whether (score, index) a comes after b: lower score, or the same score and a higher column.
HWY_INLINE bool is_worse(float score_a, int32_t index_a, float score_b, int32_t index_b) {
  return score_a < score_b || (score_a == score_b && index_a > index_b);
}

// The best so far as a binary heap whose top is the worst of them, in the output's own memory.
struct WorstFirstHeap {
  float* scores;
  int32_t* indices;
  int64_t capacity;
  int64_t size = 0;

  // A candidate comes in column order, so one that ties with the worst kept loses to it.
  bool wants(float score) const { return score > kNever && (size < capacity || score > scores[0]); }

  void sift_down(int64_t hole, int64_t end, float score, int32_t index) {
    while (true) {
      int64_t child = 2 * hole + 1;
      if (child >= end) break;
      if (child + 1 < end && is_worse(scores[child + 1], indices[child + 1], scores[child], indices[child])) ++child;
      if (!is_worse(scores[child], indices[child], score, index)) break;
      scores[hole] = scores[child];
      indices[hole] = indices[child];
      hole = child;
    }
    scores[hole] = score;
    indices[hole] = index;
  }

  void push(float score, int32_t index) {
    if (size == capacity) {
      sift_down(0, size, score, index);
      return;
    }
    int64_t hole = size++;
    while (hole > 0 && is_worse(score, index, scores[(hole - 1) / 2], indices[(hole - 1) / 2])) {
      scores[hole] = scores[(hole - 1) / 2];
      indices[hole] = indices[(hole - 1) / 2];
      hole = (hole - 1) / 2;
    }
    scores[hole] = score;
    indices[hole] = index;
  }

  // Heap sort in place: best first; what is missing becomes (-1, -infinity).
  void finish() {
    for (int64_t end = size - 1; end > 0; --end) {
      const float score = scores[end];
      const int32_t index = indices[end];
      scores[end] = scores[0];
      indices[end] = indices[0];
      sift_down(0, end, score, index);
    }
    std::fill(scores + size, scores + capacity, kNever);
    std::fill(indices + size, indices + capacity, -1);
  }
};

void best_of_rows(const TopK& args) {
  const int64_t columns = args.scores.columns(), k = args.indices.columns();
  if (k == 0) return;
  parallel_for(args.scores.rows(), [&](int64_t row) HWY_ATTR {
    const Floats d;
    const float* scores = args.scores.row(row);
    WorstFirstHeap heap{.scores = args.values.row(row), .indices = args.indices.row(row), .capacity = k};
    int64_t column = 0;
    for (; column < columns && heap.size < k; ++column) {
      if (heap.wants(scores[column])) heap.push(scores[column], static_cast<int32_t>(column));
    }
    // Few columns beat the worst kept: whole vectors are passed over.
    for (; column + kFloatLanes <= columns; column += kFloatLanes) {
      if (hn::AllFalse(d, hn::Gt(hn::LoadU(d, scores + column), hn::Set(d, heap.scores[0])))) continue;
      for (int64_t i = column; i < column + kFloatLanes; ++i) {
        if (heap.wants(scores[i])) heap.push(scores[i], static_cast<int32_t>(i));
      }
    }
    for (; column < columns; ++column) {
      if (heap.wants(scores[column])) heap.push(scores[column], static_cast<int32_t>(column));
    }
    heap.finish();
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(best_of_rows);

void launch(CpuStream, const TopK& args) {
  HWY_DYNAMIC_DISPATCH(best_of_rows)(args);
}

void launch(CpuStream, const ExcludeColumns& args) {
  parallel_for(args.scores.rows(), [&](int64_t row) {
    for (int64_t place = args.offsets[row]; place < args.offsets[row + 1]; ++place) {
      args.scores.row(row)[args.columns[place]] = -std::numeric_limits<float>::infinity();
    }
  });
}

}  // namespace itemloom
#endif
