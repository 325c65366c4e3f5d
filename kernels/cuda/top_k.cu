// Up to kMostCollected columns of a row: one block a row. It goes over the row once, in column order, and collects what
// beats the worst of the k best so far; whenever the next columns might not fit it sorts what it has and keeps k. In a
// row in no particular order about k ln(V / k) columns are ever collected, so sorting is rare.
//
// A candidate is one 64-bit key, score above inverted column: a greater key is a better candidate, no two are equal,
// and so the result does not depend on the order in which threads put candidates down.
//
// More than that: the rows are sorted one after the other (radix sort, stable, so that equals stay in column order).
//
// Columns to be excluded: a warp a row.
#include "kernels/top_k.h"

#include <algorithm>
#include <limits>

#include "kernels/cuda/carver.cuh"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/sort_pairs.h"

namespace itemloom {
namespace cuda_top_k {

constexpr int kThreads = 256;
// Columns that are looked at before there is another chance to sort, and how many such steps are loaded at once.
constexpr int64_t kStep = 4 * kThreads;
constexpr int kSteps = 4;
// Of candidates in shared memory: those that are kept, and those of a step.
constexpr int64_t kMostCandidates = 4096;
constexpr int64_t kMostCollected = kMostCandidates - kStep;
constexpr float kNever = -std::numeric_limits<float>::infinity();

// Greater for a better score.
__device__ inline uint32_t ordered(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 becomes 0
  return bits ^ (bits >> 31 ? 0xFFFFFFFF : 0x80000000);
}
__device__ inline uint64_t key_of(float score, int64_t column) {
  return uint64_t{ordered(score)} << 32 | (0xFFFFFFFF - static_cast<uint32_t>(column));
}
__device__ inline float score_of(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered ^ (ordered >> 31 ? 0x80000000 : 0xFFFFFFFF));
}
__device__ inline int32_t column_of(uint64_t key) {
  return static_cast<int32_t>(0xFFFFFFFF - static_cast<uint32_t>(key));
}

constexpr int64_t power_of_two(int64_t at_least) {
  int64_t power = 1;
  while (power < at_least) power *= 2;
  return power;
}

// Best first, by the whole block (bitonic). Up to the next power of two keys are filled up with 0, worse than any.
__device__ inline void sort_keys(uint64_t* keys, int64_t count) {
  const int64_t padded = power_of_two(count);
  for (int64_t i = count + threadIdx.x; i < padded; i += kThreads) keys[i] = 0;
  __syncthreads();
  for (int64_t length = 2; length <= padded; length *= 2) {
    for (int64_t distance = length / 2; distance > 0; distance /= 2) {
      for (int64_t pair = threadIdx.x; pair < padded / 2; pair += kThreads) {
        const int64_t low = 2 * pair - (pair & (distance - 1)), high = low + distance;
        const uint64_t a = keys[low], b = keys[high];
        const bool best_first = (low & length) == 0;
        if ((a < b) == best_first) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
  }
}

using Columns = cuda::RowFour<kThreads>;

// The candidates of a row, best first after keep_best().
struct Candidates {
  uint64_t* keys;
  int* count;  // in shared memory
  int64_t capacity, wanted;

  __device__ void collect(const cuda::Four& scores, const Columns& columns, float worst) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (scores.at[k] > worst) keys[atomicAdd(count, 1)] = key_of(scores.at[k], columns.column(k));
    }
  }
  // Returns the score that a later column must beat. All threads have passed a barrier since the last collect().
  __device__ float keep_best() const {
    const int collected = *count;
    sort_keys(keys, collected);
    if (threadIdx.x == 0) *count = static_cast<int>(min(int64_t{collected}, wanted));
    __syncthreads();
    return collected >= wanted ? score_of(keys[wanted - 1]) : kNever;
  }
};

__device__ void collect_row(const float* row, int64_t columns, const Candidates& candidates) {
  float worst = kNever;
  for (int64_t begin = Columns::first_column(row); begin < columns; begin += kSteps * kStep) {
    // Columns that are not there get kNever, which is never taken.
    cuda::Four scores[kSteps];
    bool any = false;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      scores[step] = Columns(begin + step * kStep, columns).load(row, kNever);
#pragma unroll
      for (int k = 0; k < 4; ++k) any = any || scores[step].at[k] > worst;
    }
    if (!__syncthreads_or(any)) continue;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      candidates.collect(scores[step], Columns(begin + step * kStep, columns), worst);
      __syncthreads();
      const bool is_full = *candidates.count > candidates.capacity - kStep;
      __syncthreads();
      if (is_full) worst = candidates.keep_best();
    }
  }
}

__global__ void best_of_rows(TopK args, int64_t capacity) {
  extern __shared__ uint64_t keys[];
  __shared__ int count;
  const int64_t row = blockIdx.x, columns = args.scores.columns(), wanted = args.indices.columns();
  const Candidates candidates{keys, &count, capacity, wanted};
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  collect_row(args.scores.row(row), columns, candidates);
  candidates.keep_best();
  for (int64_t place = threadIdx.x; place < wanted; place += kThreads) {
    const bool is_there = place < count;
    const int32_t column = is_there ? column_of(candidates.keys[place]) : -1;
    args.indices.row(row)[place] = column;
    args.values.row(row)[place] = is_there ? args.scores.row(row)[column] : kNever;
  }
}

void collect_rows(CudaStream stream, const TopK& args) {
  const int64_t columns = args.scores.columns();
  const int64_t capacity = power_of_two(std::min(args.indices.columns(), columns) + kStep);
  cuda::start(stream, "top_k", best_of_rows, cuda::grid(args.scores.rows()), kThreads,
              capacity * static_cast<int64_t>(sizeof(uint64_t)), args, capacity);
}

// Of a column that is never taken; that of any other is less.
constexpr uint32_t kLast = 0xFFFFFFFF;

__global__ void make_sort_keys(Vector<const float> scores, uint32_t* keys, int32_t* columns) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= scores.size()) return;
  keys[i] = scores[i] > kNever ? ~ordered(scores[i]) : kLast;
  columns[i] = static_cast<int32_t>(i);
}

__global__ void take_first(TopK args, int64_t row, const uint32_t* keys, const int32_t* columns) {
  const int64_t place = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (place >= args.indices.columns()) return;
  const bool is_there = place < args.scores.columns() && keys[place] != kLast;
  args.indices.row(row)[place] = is_there ? columns[place] : -1;
  args.values.row(row)[place] = is_there ? args.scores.row(row)[columns[place]] : kNever;
}

void sort_rows(CudaStream stream, const TopK& args) {
  const int64_t columns = args.scores.columns();
  const cuda::SortPairs sort{.count = columns, .bits = 32};
  uint32_t *keys = nullptr, *sorted_keys = nullptr;
  int32_t *numbers = nullptr, *sorted_numbers = nullptr;
  std::byte* sort_memory = nullptr;
  cuda::carve_scratch(stream, [&](cuda::Carver& carver) {
    keys = carver.take<uint32_t>(columns);
    sorted_keys = carver.take<uint32_t>(columns);
    numbers = carver.take<int32_t>(columns);
    sorted_numbers = carver.take<int32_t>(columns);
    sort_memory = carver.take<std::byte>(sort.working_bytes());
  });
  for (int64_t row = 0; row < args.scores.rows(); ++row) {
    cuda::start(stream, "top_k_sort_keys", make_sort_keys, cuda::grid(block_count(columns, kThreads)), kThreads, 0,
                Vector<const float>(args.scores.row(row), columns), keys, numbers);
    sort.run(stream, sort_memory, keys, numbers, sorted_keys, sorted_numbers);
    cuda::start(stream, "top_k_take_first", take_first, cuda::grid(block_count(args.indices.columns(), kThreads)),
                kThreads, 0, args, row, sorted_keys, sorted_numbers);
  }
}

__global__ void exclude_columns(ExcludeColumns args) {
  const int64_t row = blockIdx.x, end = args.offsets[row + 1];
  for (int64_t place = args.offsets[row] + threadIdx.x; place < end; place += cuda::kWarp) {
    args.scores.row(row)[args.columns[place]] = kNever;
  }
}

}  // namespace cuda_top_k

void launch(CudaStream stream, const TopK& args) {
  using namespace cuda_top_k;
  const int64_t wanted = std::min(args.indices.columns(), args.scores.columns());
  if (args.indices.size() == 0) return;
  wanted > kMostCollected ? sort_rows(stream, args) : collect_rows(stream, args);
}

void launch(CudaStream stream, const ExcludeColumns& args) {
  using namespace cuda_top_k;
  cuda::start(stream, "exclude_columns", exclude_columns, cuda::grid(args.scores.rows()), cuda::kWarp, 0, args);
}

}  // namespace itemloom
