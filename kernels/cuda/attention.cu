// A block owns a tile of 32 or 64 rows of one head, which stays in shared memory, and lets the rows that meet it stream
// past in tiles of 32. The rows of a tile follow each other in the packed batch, across the borders of sequences: what
// a row meets is an interval of rows, pairs outside of it count as nothing, and tiles without any pair are passed over.
// So short sequences share a tile, a long one has many, and the host need not know any length.
//
//   forward                queries stay, keys and values stream; softmax is online (Milakov and Gimelshein, 2018)
//   row_dots               delta_i = dy_i . y_i, a lane a chunk of a head; also where each query's sequence starts
//   add_query_gradients    queries and their dy stay, keys and values stream
//   add_key_gradients      keys and values stay, queries and their dy stream
//
// A warp owns the rows that its threads sum for and needs no other warp's results. Tiles that stream begin at multiples
// of 32, whatever queries are wanted, and a tile that adds nothing changes no bit: a row of y has the same bits whether
// other rows are wanted or not. Where in the batch a sequence lies does change the last bits.
#include "kernels/attention.h"

#include <limits>

#include "kernels/cuda/attention_pairs.cuh"
#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_tiles.cuh"

namespace itemloom {
namespace cuda_attention {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Blocks that a multiprocessor is to hold, which leaves a thread 128 registers, and 255 where rows are long.
constexpr int wanted_blocks(int size) {
  return size <= 64 ? 4 : 2;
}

__device__ inline float4* shared_memory() {
  extern __shared__ float4 memory[];
  return memory;
}

// Makes the queries from `first` on stay, with their scaled numbers, and gives how many there are.
template <int kSize, class Shape>
__device__ int hold_queries(const Problem<float>& problem, int first, Resident* residents, float* queries) {
  const int thread = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.y);
  const int count = min(Shape::kRows, problem.queries - first);
  if (thread < Shape::kRows) residents[thread] = problem.query(first + thread);
  __syncthreads();
  load_rows<kSize, Shape::kRows>(problem.columns, problem.scale, queries,
                                 [&](int i) { return i < count ? problem.part(0, residents[i].row, head) : nullptr; });
  return count;
}

// Lets the keys and values of `count` queries stream past: body(first key) for each tile that the warp meets. Before
// the first of them all threads have seen what any thread wrote before.
template <int kSize, int kOwn, class Body>
__device__ void for_key_tiles(const Problem<float>& problem, const Place<kOwn>& place, const Resident* residents,
                              int count, float* keys, float* values, Body body) {
  const int thread = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.y);
  const int end = residents[count - 1].end, rows = static_cast<int>(problem.qkv.rows());
  for (int first = residents[0].begin / kStreamed * kStreamed; first < end; first += kStreamed) {
    const int last = first + kStreamed - 1;
    if (!__syncthreads_or(thread < count && residents[thread].meets_any(first, last))) continue;
    load_rows<kSize, kStreamed>(problem.columns, 1, keys,
                                [&](int i) { return first + i < rows ? problem.part(1, first + i, head) : nullptr; });
    load_rows<kSize, kStreamed>(problem.columns, 1, values,
                                [&](int i) { return first + i < rows ? problem.part(2, first + i, head) : nullptr; });
    __syncthreads();
    if (warp_meets(place, residents, first, last)) body(first);
  }
}

template <int kOwn>
struct Softmax {
  float maximum[kOwn], total[kOwn];
};

// Turns scores into exp(score - maximum), with the running maximum and sum brought up to date, and what was summed
// before this tile, too.
template <int kSize, int kOwn>
__device__ void softmax_tile(const Place<kOwn>& place, const Resident* residents, int first_key,
                             float (&scores)[kOwn][kOwnStreamed], Softmax<kOwn>& softmax, Sums<kSize, kOwn>& output) {
  using Shape = Tile<kSize, kOwn>;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const Resident& row = residents[place.row(i)];
    float maximum = softmax.maximum[i];
#pragma unroll
    for (int j = 0; j < kOwnStreamed; ++j) {
      if (!row.meets(first_key + place.streamed(j))) scores[i][j] = -kInfinity;
      maximum = fmaxf(maximum, scores[i][j]);
    }
    // Unlike cuda::Max, fmaxf gives all lanes the same beside a NaN.
    maximum = cuda::reduce_warp<kGroup>(maximum, [](float a, float b) { return fmaxf(a, b); });
    const float base = maximum == -kInfinity ? 0.0f : maximum;
    const float rescale = expf(softmax.maximum[i] - base);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kOwnStreamed; ++j) {
      scores[i][j] = expf(scores[i][j] - base);
      sum += scores[i][j];
    }
    softmax.maximum[i] = maximum;
    softmax.total[i] = softmax.total[i] * rescale + cuda::warp_sum<kGroup>(sum);
#pragma unroll
    for (int p = 0; p < Shape::kPieces; ++p) {
#pragma unroll
      for (int c = 0; c < Shape::kPiece; ++c) output.at[i][p].at[c] *= rescale;
    }
  }
}

template <int kSize, int kOwn>
__global__ void __launch_bounds__(kThreads, wanted_blocks(kSize))
    forward(Problem<float> problem, Matrix<float> y, Matrix<float> log_sum_exp) {
  using Shape = Tile<kSize, kOwn>;
  __shared__ Resident residents[Shape::kRows];
  float* queries = reinterpret_cast<float*>(shared_memory());
  float* keys = queries + Shape::kRows * Shape::kStride;
  float* values = keys + kStreamed * Shape::kStride;
  float* weights = values + kStreamed * Shape::kStride;
  const Place<kOwn> place;
  const int head = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * Shape::kRows;
  const int count = hold_queries<kSize, Shape>(problem, first, residents, queries);
  Softmax<kOwn> softmax;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    softmax.maximum[i] = -kInfinity;
    softmax.total[i] = 0;
  }
  Sums<kSize, kOwn> output;
  for_key_tiles<kSize>(problem, place, residents, count, keys, values, [&](int first_key) {
    float scores[kOwn][kOwnStreamed];
    multiply_rows<kSize, kOwn>(place, queries, keys, scores);
    softmax_tile(place, residents, first_key, scores, softmax, output);
    const auto kept = keep_keys(problem, place, residents, head, first_key);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int j = 0; j < kOwnStreamed; ++j) scores[i][j] = kept.at(i, j) ? scores[i][j] : 0.0f;
    }
    add_weighted(place, scores, weights, values, output);
  });
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = place.row(i);
    if (row >= count) continue;
    write_row<false>(place, problem.columns, output, i, problem.dropout_scale / softmax.total[i],
                     y.row(first + row) + head * problem.columns.count);
    if (place.member == 0) log_sum_exp.row(head)[first + row] = softmax.maximum[i] + logf(softmax.total[i]);
  }
}

template <int kSize, int kOwn>
__global__ void __launch_bounds__(kThreads, wanted_blocks(kSize))
    add_query_gradients(Problem<float> problem, Gradients<float> gradients) {
  using Shape = Tile<kSize, kOwn>;
  __shared__ Resident residents[Shape::kRows];
  float* queries = reinterpret_cast<float*>(shared_memory());
  float* doutputs = queries + Shape::kRows * Shape::kStride;
  float* keys = doutputs + Shape::kRows * Shape::kStride;
  float* values = keys + kStreamed * Shape::kStride;
  float* weights = values + kStreamed * Shape::kStride;
  const Place<kOwn> place;
  const int head = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * Shape::kRows;
  const int count = hold_queries<kSize, Shape>(problem, first, residents, queries);
  load_rows<kSize, Shape::kRows>(problem.columns, problem.dropout_scale, doutputs, [&](int i) {
    return i < count ? gradients.dy_at(problem, first + i, head) : nullptr;
  });
  float log_sum_exp[kOwn], delta[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = place.row(i);
    log_sum_exp[i] = row < count ? gradients.log_sum_exp.row(head)[first + row] : 0;
    delta[i] = row < count ? gradients.delta[int64_t{head} * problem.queries + first + row] : 0;
  }
  Sums<kSize, kOwn> dqueries;
  for_key_tiles<kSize>(problem, place, residents, count, keys, values, [&](int first_key) {
    float scores[kOwn][kOwnStreamed], dscores[kOwn][kOwnStreamed];
    multiply_rows<kSize, kOwn>(place, queries, keys, scores);
    multiply_rows<kSize, kOwn>(place, doutputs, values, dscores);
    const auto kept = keep_keys(problem, place, residents, head, first_key);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int j = 0; j < kOwnStreamed; ++j) {
        const bool pair = residents[place.row(i)].meets(first_key + place.streamed(j));
        const float p = pair ? expf(scores[i][j] - log_sum_exp[i]) : 0.0f;
        dscores[i][j] = gradient_of_score(p, dscores[i][j], kept.at(i, j), delta[i]);
      }
    }
    add_weighted(place, dscores, weights, keys, dqueries);
  });
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = place.row(i);
    if (row >= count) continue;
    write_row<true>(place, problem.columns, dqueries, i, problem.scale,
                    gradients.part(problem, 0, residents[row].row, head));
  }
}

// What is known of a query that streams past.
struct Streamed {
  int start;
  uint32_t row_id;
  float log_sum_exp, delta;
};
__device__ inline Streamed streamed_query(const Problem<float>& problem, const Gradients<float>& gradients, int head,
                                          int index, int end) {
  if (index >= end) return {0, 0, 0, 0};
  return {gradients.starts[index], problem.row_id(problem.query_row(index)), gradients.log_sum_exp.row(head)[index],
          gradients.delta[int64_t{head} * problem.queries + index]};
}

template <int kSize, int kOwn>
__global__ void __launch_bounds__(kThreads, wanted_blocks(kSize))
    add_key_gradients(Problem<float> problem, Gradients<float> gradients) {
  using Shape = Tile<kSize, kOwn>;
  __shared__ Resident residents[Shape::kRows];
  __shared__ Streamed streamed[kStreamed];
  float* keys = reinterpret_cast<float*>(shared_memory());
  float* values = keys + Shape::kRows * Shape::kStride;
  float* queries = values + Shape::kRows * Shape::kStride;
  float* doutputs = queries + kStreamed * Shape::kStride;
  float* weights = doutputs + kStreamed * Shape::kStride;
  const Place<kOwn> place;
  const int thread = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * Shape::kRows;
  const int count = min(Shape::kRows, static_cast<int>(problem.qkv.rows()) - first);
  if (thread < Shape::kRows) residents[thread] = problem.key_at(first + thread);
  load_rows<kSize, Shape::kRows>(problem.columns, 1, keys,
                                 [&](int i) { return i < count ? problem.part(1, first + i, head) : nullptr; });
  load_rows<kSize, Shape::kRows>(problem.columns, 1, values,
                                 [&](int i) { return i < count ? problem.part(2, first + i, head) : nullptr; });
  __syncthreads();
  Sums<kSize, kOwn> dkeys, dvalues;
  const int end = residents[count - 1].end;
  for (int index = residents[0].begin; index < end; index += kStreamed) {
    const int last = index + kStreamed - 1;
    if (!__syncthreads_or(thread < count && residents[thread].meets_any(index, last))) continue;
    if (thread < kStreamed) streamed[thread] = streamed_query(problem, gradients, head, index + thread, end);
    load_rows<kSize, kStreamed>(problem.columns, problem.scale, queries, [&](int i) {
      return index + i < end ? problem.part(0, problem.query_row(index + i), head) : nullptr;
    });
    load_rows<kSize, kStreamed>(problem.columns, problem.dropout_scale, doutputs, [&](int i) {
      return index + i < end ? gradients.dy_at(problem, index + i, head) : nullptr;
    });
    __syncthreads();
    if (!warp_meets(place, residents, index, last)) continue;
    float scores[kOwn][kOwnStreamed], dscores[kOwn][kOwnStreamed];
    multiply_rows<kSize, kOwn>(place, keys, queries, scores);
    multiply_rows<kSize, kOwn>(place, values, doutputs, dscores);
    const Streamed& drawn = streamed[place.lane];
    const auto kept = keep_queries(problem, place, drawn.start, drawn.row_id, head, first);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
#pragma unroll
      for (int j = 0; j < kOwnStreamed; ++j) {
        const Streamed& query = streamed[place.streamed(j)];
        const bool pair = residents[place.row(i)].meets(index + place.streamed(j));
        const float p = pair ? expf(scores[i][j] - query.log_sum_exp) : 0.0f;
        dscores[i][j] = gradient_of_score(p, dscores[i][j], kept.at(i, j), query.delta);
        scores[i][j] = kept.at(i, j) ? p : 0.0f;
      }
    }
    add_weighted(place, scores, weights, doutputs, dvalues);
    add_weighted(place, dscores, weights, queries, dkeys);
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int row = place.row(i);
    if (row >= count) continue;
    write_row<true>(place, problem.columns, dkeys, i, 1, gradients.part(problem, 1, first + row, head));
    write_row<true>(place, problem.columns, dvalues, i, 1, gradients.part(problem, 2, first + row, head));
  }
}

}  // namespace cuda_attention

void launch(CudaStream stream, const AttentionForward<float>& args) {
  using namespace cuda_attention;
  const Problem<float> problem = problem_of(args);
  with_size(problem, [&](auto size) {
    constexpr int kSize = size, kOwn = kSize <= 64 ? 4 : 2;
    using Shape = Tile<kSize, kOwn>;
    cuda::start(stream, "attention_forward", forward<kSize, kOwn>, tiles_of<Shape::kRows>(problem.queries, args.heads),
                kThreads, Shape::kRowsBytes + 2 * Shape::kStreamedBytes + Shape::kWeightsBytes, problem, args.y,
                args.log_sum_exp);
  });
}

void launch(CudaStream stream, const AttentionBackward<float>& args) {
  using namespace cuda_attention;
  const Problem<float> problem = problem_of(args);
  if (problem.queries == 0) return;
  with_size(problem, [&](auto size) {
    constexpr int kSize = size, kOwn = 2;
    using Shape = Tile<kSize, kOwn>;
    constexpr int64_t kBytes = 2 * Shape::kRowsBytes + 2 * Shape::kStreamedBytes + Shape::kWeightsBytes;
    const Gradients<float> gradients = start_gradients(stream, args, problem, size);
    cuda::start(stream, "attention_query_gradients", add_query_gradients<kSize, kOwn>,
                tiles_of<Shape::kRows>(problem.queries, args.heads), kThreads, kBytes, problem, gradients);
    cuda::start(stream, "attention_key_gradients", add_key_gradients<kSize, kOwn>,
                tiles_of<Shape::kRows>(problem.qkv.rows(), args.heads), kThreads, kBytes, problem, gradients);
  });
}

}  // namespace itemloom
