// One block a row. It goes over the row once, in column order, and collects what beats the worst of the k best so far;
// whenever the next columns might not fit it sorts what it has and keeps k. In a row in no particular order about
// k ln(V / k) columns are ever collected, so sorting is rare.
//
// A candidate is one 64-bit key, score above inverted column: a greater key is a better candidate, no two are equal,
// and so the result does not depend on the order in which threads put candidates down.
#include "kernels/top_k.h"

#include <algorithm>
#include <limits>

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_top_k {

constexpr int kThreads = 256;
// Columns that are looked at before there is another chance to sort, and how many such steps are loaded at once.
constexpr int64_t kStep = 4 * kThreads;
constexpr int kSteps = 4;
// Up to this many candidates are kept in shared memory, more in global memory.
constexpr int64_t kSharedCandidates = 4096;
constexpr float kNever = -std::numeric_limits<float>::infinity();

__device__ inline uint64_t key_of(float score, int64_t column) {
  const uint32_t bits = __float_as_uint(score + 0.0f);  // -0 becomes 0
  const uint32_t ordered = bits ^ (bits >> 31 ? 0xFFFFFFFF : 0x80000000);
  return uint64_t{ordered} << 32 | (0xFFFFFFFF - static_cast<uint32_t>(column));
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

// The candidates of a row, best first after keep_best().
struct Candidates {
  uint64_t* keys;
  int* count;  // in shared memory
  int64_t capacity, wanted;

  __device__ void collect(const cuda::Four& scores, int64_t column, float worst) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (scores.at[k] > worst) keys[atomicAdd(count, 1)] = key_of(scores.at[k], column + k);
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

// Columns that are not there get kNever, which is never taken.
template <bool kAligned>
__device__ cuda::Four load_scores(const float* row, int64_t column, int64_t columns) {
  cuda::Four scores{{kNever, kNever, kNever, kNever}};
  if (column < columns) {
    cuda::with_lanes<kAligned>(columns - column, [&](auto lanes) {
      const cuda::Four loaded = lanes.load(row + column);
#pragma unroll
      for (int k = 0; k < 4; ++k) scores.at[k] = lanes.holds(k) ? loaded.at[k] : kNever;
    });
  }
  return scores;
}

template <bool kAligned>
__device__ void collect_row(const float* row, int64_t columns, const Candidates& candidates) {
  float worst = kNever;
  for (int64_t begin = 4 * threadIdx.x; begin - 4 * threadIdx.x < columns; begin += kSteps * kStep) {
    cuda::Four scores[kSteps];
    bool any = false;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      scores[step] = load_scores<kAligned>(row, begin + step * kStep, columns);
#pragma unroll
      for (int k = 0; k < 4; ++k) any = any || scores[step].at[k] > worst;
    }
    if (!__syncthreads_or(any)) continue;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      candidates.collect(scores[step], begin + step * kStep, worst);
      __syncthreads();
      const bool is_full = *candidates.count > candidates.capacity - kStep;
      __syncthreads();
      if (is_full) worst = candidates.keep_best();
    }
  }
}

template <bool kAligned>
__global__ void best_of_rows(TopK args, uint64_t* global_keys, int64_t capacity) {
  extern __shared__ uint64_t shared_keys[];
  __shared__ int count;
  const int64_t row = blockIdx.x, columns = args.scores.columns(), wanted = args.indices.columns();
  const Candidates candidates{global_keys ? global_keys + row * capacity : shared_keys, &count, capacity, wanted};
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  collect_row<kAligned>(args.scores.row(row), columns, candidates);
  candidates.keep_best();
  for (int64_t place = threadIdx.x; place < wanted; place += kThreads) {
    const bool is_there = place < count;
    const int32_t column = is_there ? column_of(candidates.keys[place]) : -1;
    args.indices.row(row)[place] = column;
    args.values.row(row)[place] = is_there ? args.scores.row(row)[column] : kNever;
  }
}

}  // namespace cuda_top_k

void launch(CudaStream stream, const TopK& args) {
  using namespace cuda_top_k;
  const int64_t rows = args.scores.rows(), columns = args.scores.columns(), wanted = args.indices.columns();
  if (wanted == 0) return;
  const int64_t capacity = power_of_two(std::min(wanted, columns) + kStep);
  const bool is_shared = capacity <= kSharedCandidates;
  const int64_t key_bytes = capacity * static_cast<int64_t>(sizeof(uint64_t));
  const bool aligned = columns % 4 == 0 && cuda::fours_aligned(args.scores.data());
  uint64_t* global_keys = is_shared ? nullptr : reinterpret_cast<uint64_t*>(stream.context->scratch(rows * key_bytes));
  cuda::start(stream, "top_k", aligned ? best_of_rows<true> : best_of_rows<false>, cuda::grid(rows), kThreads,
              is_shared ? key_bytes : 0, args, global_keys, capacity);
}

}  // namespace itemloom
