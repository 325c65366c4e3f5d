// What attention's kernels of every storage type share: the problem, which rows meet, and delta_i = dy_i . y_i.
// kernels/cuda/attention.cu tells the whole.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/bf16.h"
#include "core/rng.h"
#include "kernels/attention.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/carver.cuh"
#include "kernels/cuda/storage.cuh"

namespace itemloom::cuda_attention {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / cuda::kWarp;
// Rows of a tile that streams past.
constexpr int kStreamed = cuda::kWarp;

// What is read and written at once where the columns of a head allow it: 16 bytes.
template <class T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));

// The columns of a head; `aligned` says that every head of every row begins at a multiple of 16 bytes.
struct Columns {
  int count;
  bool aligned;
};

// A row that stays, the interval of rows (for a query) or of queries (for a key) that it meets, and where its sequence
// starts.
struct Resident {
  int row, begin, end, start;
  uint32_t row_id;

  __device__ bool meets(int other) const { return other >= begin && other < end; }
  __device__ bool meets_any(int first, int last) const { return begin <= last && end > first; }
};

// What the kernels share of AttentionForward and AttentionBackward.
template <class T>
struct Problem {
  Matrix<const T> qkv;
  Vector<const int64_t> sequence_offsets;
  Vector<const int64_t> query_rows;
  const uint32_t* row_ids;
  int queries;
  int64_t hidden;
  Columns columns;
  bool causal;
  float scale;
  DropoutKey key;
  uint32_t dropout_threshold;
  float dropout_scale;

  // Part 0, 1 or 2 of a row: q, k or v.
  __device__ const T* part(int part, int row, int head) const {
    return qkv.row(row) + part * hidden + head * columns.count;
  }
  __device__ int query_row(int index) const { return query_rows ? static_cast<int>(query_rows[index]) : index; }
  // The number of queries before `row`.
  __device__ int queries_before(int row) const {
    if (!query_rows) return row;
    int low = 0, high = queries;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (query_rows[middle] < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  __device__ uint32_t row_id(int row) const { return dropout_threshold > 0 ? row_ids[row] : 0; }

  // The sequence that a row is of: the last one that starts at the row or before, because empty ones come first.
  __device__ Resident sequence_of(int row) const {
    int64_t low = 0, high = sequence_offsets.size() - 1;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (sequence_offsets[middle] <= row ? low : high) = middle;
    }
    const int begin = static_cast<int>(sequence_offsets[low]), end = static_cast<int>(sequence_offsets[low + 1]);
    return {row, begin, end, begin, row_id(row)};
  }
  static __device__ Resident nobody() { return {-1, 0, 0, 0, 0}; }
  __device__ Resident query(int index) const {
    if (index >= queries) return nobody();
    Resident result = sequence_of(query_row(index));
    if (causal) result.end = result.row + 1;
    return result;
  }
  __device__ Resident key_at(int row) const {
    if (row >= qkv.rows()) return nobody();
    Resident result = sequence_of(row);
    result.begin = queries_before(causal ? row : result.begin);
    result.end = queries_before(result.end);
    return result;
  }
};

// Whether chunks can be read and written from these pointers on.
template <class... Pointers>
bool chunks_aligned(Pointers... pointers) {
  return (... && (reinterpret_cast<uintptr_t>(pointers) % 16 == 0));
}

template <class T, class Arguments>
Problem<T> problem_of(const Arguments& args, bool pointers_aligned) {
  const int64_t hidden = args.qkv.columns() / 3, head_size = hidden / args.heads;
  CHECK(head_size <= kLargestCudaHead, "attention on a GPU has heads of at most ", kLargestCudaHead, " columns, not ",
        head_size, "; use more heads, or the CPU");
  constexpr int64_t kMostRows = int64_t{1} << 30;
  CHECK(args.qkv.rows() <= kMostRows, "attention of ", args.qkv.rows(), " rows at once");
  return {.qkv = args.qkv,
          .sequence_offsets = args.sequence_offsets,
          .query_rows = args.query_rows,
          .row_ids = args.row_ids.data(),
          .queries = static_cast<int>(args.y.rows()),
          .hidden = hidden,
          .columns = {static_cast<int>(head_size), pointers_aligned && head_size % kChunk<T> == 0},
          .causal = args.causal,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_size))),
          .key = args.key,
          .dropout_threshold = dropout_threshold(args.dropout),
          .dropout_scale = dropout_scale(args.dropout)};
}
template <class T>
Problem<T> problem_of(const AttentionForward<T>& args) {
  return problem_of<T>(args, chunks_aligned(args.qkv.data(), args.y.data()));
}
template <class T>
Problem<T> problem_of(const AttentionBackward<T>& args) {
  return problem_of<T>(args, chunks_aligned(args.qkv.data(), args.y.data(), args.dy.data(), args.dqkv.data()));
}

// visit(size) with the least kSize that holds a head.
template <class T, class Visit>
void with_size(const Problem<T>& problem, Visit visit) {
  if (problem.columns.count <= 16) {
    visit(std::integral_constant<int, 16>());
  } else if (problem.columns.count <= 32) {
    visit(std::integral_constant<int, 32>());
  } else if (problem.columns.count <= 64) {
    visit(std::integral_constant<int, 64>());
  } else {
    visit(std::integral_constant<int, kLargestCudaHead>());
  }
}

// A block for every tile of kRows rows of every head.
template <int kRows>
dim3 tiles_of(int64_t rows, int64_t heads) {
  dim3 blocks = cuda::grid(block_count(rows, kRows));
  blocks.y = static_cast<unsigned>(heads);
  return blocks;
}

// What the backward kernels share beside the problem.
template <class T>
struct Gradients {
  Matrix<const float> log_sum_exp;
  Matrix<const T> dy;
  const float* delta;  // (H, M)
  const int* starts;   // (M) where each query's sequence starts
  Matrix<T> dqkv;

  __device__ T* part(const Problem<T>& problem, int part, int row, int head) const {
    return dqkv.row(row) + part * problem.hidden + head * problem.columns.count;
  }
  __device__ const T* dy_at(const Problem<T>& problem, int query, int head) const {
    return dy.row(query) + head * problem.columns.count;
  }
};

// With P = exp(score - log_sum_exp): dscore = P (keep dP - delta), where dP has the dropout's scale in it.
__device__ inline float gradient_of_score(float p, float dp, bool kept, float delta) {
  return p * ((kept ? dp : 0.0f) - delta);
}

// A chunk of a head's columns; those beyond the head are zero.
template <class T>
struct alignas(16) Chunk {
  T at[kChunk<T>];
};
template <class T>
__device__ Chunk<T> load_chunk(const Columns& columns, const T* from, int column) {
  if (columns.aligned && column < columns.count) return *reinterpret_cast<const Chunk<T>*>(from + column);
  Chunk<T> chunk;
#pragma unroll
  for (int i = 0; i < kChunk<T>; ++i) chunk.at[i] = column + i < columns.count ? from[column + i] : T{};
  return chunk;
}
// A chunk a lane, the lanes of a (query, head) beside each other, so that a warp reads without gaps.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads)
    row_dots(Problem<T> problem, Matrix<const T> dy, Matrix<const T> y, int heads, float* delta, int* starts) {
  constexpr int kLanes = kSize / kChunk<T>;
  const int64_t pair = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
  const int member = static_cast<int>(threadIdx.x) % kLanes;
  const bool exists = pair < int64_t{problem.queries} * heads;
  const int query = static_cast<int>(pair / heads), head = static_cast<int>(pair % heads);
  float sum = 0;
  if (exists) {
    const int64_t first = head * problem.columns.count;
    const Chunk<T> a = load_chunk(problem.columns, dy.row(query) + first, member * kChunk<T>);
    const Chunk<T> b = load_chunk(problem.columns, y.row(query) + first, member * kChunk<T>);
#pragma unroll
    for (int i = 0; i < kChunk<T>; ++i) sum += cuda::load(a.at + i) * cuda::load(b.at + i);
  }
  sum = cuda::warp_sum<kLanes>(sum);
  if (!exists || member != 0) return;
  delta[int64_t{head} * problem.queries + query] = sum;
  if (head == 0) starts[query] = problem.sequence_of(problem.query_row(query)).start;
}

// The gradients' arguments, with delta and starts in scratch memory and on their way.
template <class T, int kSize>
Gradients<T> start_gradients(CudaStream stream, const AttentionBackward<T>& args, const Problem<T>& problem,
                             std::integral_constant<int, kSize>) {
  float* delta = nullptr;
  int* starts = nullptr;
  cuda::carve_scratch(stream, [&](cuda::Carver& carver) {
    delta = carver.take<float>(args.heads * problem.queries);
    starts = carver.take<int>(problem.queries);
  });
  constexpr int kPairs = kThreads / (kSize / kChunk<T>);
  cuda::start(stream, "attention_row_dots", row_dots<T, kSize>,
              cuda::grid(block_count(problem.queries * args.heads, kPairs)), kThreads, 0, problem, args.dy, args.y,
              static_cast<int>(args.heads), delta, starts);
  return {args.log_sum_exp, args.dy, delta, starts, args.dqkv};
}

}  // namespace itemloom::cuda_attention
