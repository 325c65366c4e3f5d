// Attention of bf16 on tensor cores (FlashAttention-2): kernels/cuda/attention.cu with other tiles. A block owns a tile
// of 64 rows of one head, 16 a warp, and the rows that meet it stream past in tiles of 32, the next one being copied
// while the warps work on one. Tiles without any pair are not copied. Products sum in fp32 and stay in registers:
// weights go from the first product to the second as they lie, rounded to bf16.
//
//   forward                queries stay; softmax is online, in powers of two
//   row_dots               delta, as for fp32
//   add_query_gradients    queries and their dy stay
//   add_key_gradients      keys and values stay, so that scores come out transposed, a row a key
//
// The scale 1 / sqrt(D) multiplies scores in fp32, together with log2 e, so that queries are as they were stored. Heads
// whose rows do not begin at multiples of 16 bytes are read and written element by element, all else is the same.
#include "kernels/attention.h"

#include <limits>

#include "kernels/cuda/attention_bf16_tiles.cuh"

namespace itemloom {
namespace cuda_attention::bf16 {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Blocks that a multiprocessor is to hold: four leave a thread 128 registers, three 168 and two 255.
constexpr int forward_blocks(int size) {
  return size <= 64 ? 4 : 3;
}
constexpr int query_gradient_blocks(int size) {
  return size <= 32 ? 4 : size <= 64 ? 3 : 2;
}
constexpr int key_gradient_blocks(int size) {
  return size <= 32 ? 4 : 2;
}

__device__ inline uint4* shared_chunks() {
  extern __shared__ uint4 chunks[];
  return chunks;
}

// The first row of the next tile to stream past, from `from` on, a multiple of kStreamed like all of them; beyond all
// residents when there is none.
__device__ inline int next_tile(const MmaPlace& place, const Resident* residents, int from) {
  int next = INT32_MAX;
#pragma unroll
  for (int i = place.lane; i < kHeld; i += cuda::kWarp) {
    const int first = max(residents[i].begin, from);
    if (first < residents[i].end) next = min(next, first);
  }
  return cuda::reduce_warp(next, [](int a, int b) { return min(a, b); }) / kStreamed * kStreamed;
}

// Lets the tiles that residents below `end` meet stream past: copy(first, stage) begins to copy the tile from `first`
// on to one of two stages, body(first, stage) works on it. What was copied before is there, too.
template <class Copy, class Body>
__device__ void stream_tiles(const MmaPlace& place, const Resident* residents, int end, Copy copy, Body body) {
  int next = next_tile(place, residents, 0);
  if (next < end) copy(next, 0);
  cuda::commit_copies();
  for (int stage = 0; next < end; stage ^= 1) {
    const int first = next;
    next = next_tile(place, residents, first + kStreamed);
    if (next < end) copy(next, stage ^ 1);
    cuda::commit_copies();
    cuda::wait_copies<1>();
    __syncthreads();
    body(first, stage);
    __syncthreads();
  }
  // Where nothing streamed, what stays may still be on its way.
  cuda::wait_copies<0>();
  __syncthreads();
}

// Which streamed rows from `first` on a thread's rows meet.
__device__ inline Pairs<MmaPlace> meeting(const MmaPlace& place, const Resident* residents, int first) {
  const auto bits_below = [](int count) { return count >= kStreamed ? ~0u : count <= 0 ? 0u : (1u << count) - 1; };
  Pairs<MmaPlace> pairs;
#pragma unroll
  for (int i = 0; i < MmaPlace::kOwn; ++i) {
    const Resident& row = residents[place.row(i)];
    pairs.of_row[i] = (bits_below(row.end - first) & ~bits_below(row.begin - first)) >> place.first_streamed();
  }
  return pairs;
}
// Whether any row of the warp meets any streamed row.
__device__ inline bool warp_meets(const Pairs<MmaPlace>& pairs) {
  return __any_sync(cuda::kAllLanes, (pairs.of_row[0] | pairs.of_row[1]) != 0);
}

// A thread's rows' running maxima of scores, and sums of its own powers below them.
struct Softmax {
  float maximum[MmaPlace::kOwn] = {kMinusInfinity, kMinusInfinity};
  float total[MmaPlace::kOwn] = {};
};

// What is subtracted from scores in powers of two; 0 before there is any.
__device__ inline float base_of(float maximum, float scale) {
  return maximum == kMinusInfinity ? 0.0f : maximum * scale;
}

// Turns scores into 2^(scale * score - base), with maxima and sums brought up to date, and what was summed before this
// tile, too.
template <int kSize>
__device__ void softmax_tile(const Pairs<MmaPlace>& pairs, float scale, Scores& scores, Softmax& softmax,
                             Sums<kSize>& output) {
#pragma unroll
  for (int i = 0; i < MmaPlace::kOwn; ++i) {
    float maximum = softmax.maximum[i];
#pragma unroll
    for (int j = 0; j < MmaPlace::kOwnStreamed; ++j) {
      if (!pairs.at(i, j)) scores.of(i, j) = kMinusInfinity;
      maximum = fmaxf(maximum, scores.of(i, j));
    }
    // Unlike cuda::Max, fmaxf gives all lanes the same beside a NaN.
    maximum = cuda::reduce_warp<4>(maximum, [](float a, float b) { return fmaxf(a, b); });
    const float base = base_of(maximum, scale);
    const float rescale = cuda::fast_exp2(softmax.maximum[i] * scale - base);
    softmax.maximum[i] = maximum;
    softmax.total[i] *= rescale;
#pragma unroll
    for (int j = 0; j < MmaPlace::kOwnStreamed; ++j) {
      scores.of(i, j) = cuda::fast_exp2(fmaf(scores.of(i, j), scale, -base));
      softmax.total[i] += scores.of(i, j);
    }
#pragma unroll
    for (Product& product : output.at) {
      product.at[i * 2] *= rescale;
      product.at[i * 2 + 1] *= rescale;
    }
  }
}

// Begins to copy keys and values from `first` on, as far as residents meet them.
template <int kSize>
__device__ void copy_keys(const Problem<Bf16>& problem, int head, int first, int end, const Tile<kSize>& keys,
                          const Tile<kSize>& values) {
  copy_rows<kStreamed>(problem.columns, keys,
                       [&](int i) { return first + i < end ? problem.part(1, first + i, head) : nullptr; });
  copy_rows<kStreamed>(problem.columns, values,
                       [&](int i) { return first + i < end ? problem.part(2, first + i, head) : nullptr; });
}

// Makes the queries from `first` on stay, begins to copy them, and gives how many there are.
template <int kSize>
__device__ int hold_queries(const Problem<Bf16>& problem, int first, Resident* residents, const Tile<kSize>& queries) {
  const int thread = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.y);
  const int count = min(kHeld, problem.queries - first);
  if (thread < kHeld) residents[thread] = problem.query(first + thread);
  __syncthreads();
  copy_rows<kHeld>(problem.columns, queries,
                   [&](int i) { return i < count ? problem.part(0, residents[i].row, head) : nullptr; });
  return count;
}

// Lets the keys and values that `count` queries meet stream past: body(first key, keys, values, pairs) for each tile
// that the warp meets.
template <int kSize, class Body>
__device__ void for_key_tiles(const Problem<Bf16>& problem, const MmaPlace& place, const Resident* residents, int count,
                              const Tile<kSize>& keys, Body body) {
  const int head = static_cast<int>(blockIdx.y), end = residents[count - 1].end;
  const Tile<kSize> values = keys.behind(2 * kStreamed);
  const auto copy = [&](int first, int stage) {
    copy_keys(problem, head, first, end, keys.behind(stage * kStreamed), values.behind(stage * kStreamed));
  };
  stream_tiles(place, residents, end, copy, [&](int first, int stage) {
    const Pairs<MmaPlace> pairs = meeting(place, residents, first);
    if (warp_meets(pairs)) body(first, keys.behind(stage * kStreamed), values.behind(stage * kStreamed), pairs);
  });
}

template <int kSize>
__global__ void __launch_bounds__(kThreads, forward_blocks(kSize))
    forward(Problem<Bf16> problem, Matrix<Bf16> y, Matrix<float> log_sum_exp) {
  __shared__ Resident residents[kHeld];
  const Tile<kSize> queries{shared_chunks()}, keys = queries.behind(kHeld);
  const MmaPlace place;
  const int head = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * kHeld;
  const int count = hold_queries(problem, first, residents, queries);

  const float scale = problem.scale * kLog2E;
  Softmax softmax;
  Sums<kSize> output;
  for_key_tiles(problem, place, residents, count, keys,
                [&](int first_key, const auto& tile_keys, const auto& tile_values, const auto& pairs) {
                  const auto kept = keep_keys(problem, place, residents, head, first_key);
                  Scores scores = multiply_rows(place, queries, tile_keys);
                  softmax_tile(pairs, scale, scores, softmax, output);
#pragma unroll
                  for (int i = 0; i < MmaPlace::kOwn; ++i) {
#pragma unroll
                    for (int j = 0; j < MmaPlace::kOwnStreamed; ++j)
                      scores.of(i, j) = kept.at(i, j) ? scores.of(i, j) : 0.0f;
                  }
                  add_weighted(place, scores, tile_values, output);
                });

  float factors[MmaPlace::kOwn];
#pragma unroll
  for (int i = 0; i < MmaPlace::kOwn; ++i) {
    const float total = cuda::warp_sum<4>(softmax.total[i]);
    factors[i] = problem.dropout_scale / total;
    if (place.member == 0 && place.row(i) < count) {
      log_sum_exp.row(head)[first + place.row(i)] = kLn2 * (base_of(softmax.maximum[i], scale) + log2f(total));
    }
  }
  write_rows<false>(place, problem.columns, output, factors, queries, count,
                    [&](int i) { return y.row(first + i) + head * problem.columns.count; });
}

template <int kSize>
__global__ void __launch_bounds__(kThreads, query_gradient_blocks(kSize))
    add_query_gradients(Problem<Bf16> problem, Gradients<Bf16> gradients) {
  __shared__ Resident residents[kHeld];
  const Tile<kSize> queries{shared_chunks()}, doutputs = queries.behind(kHeld), keys = doutputs.behind(kHeld);
  const MmaPlace place;
  const int head = static_cast<int>(blockIdx.y), first = static_cast<int>(blockIdx.x) * kHeld;
  const int count = hold_queries(problem, first, residents, queries);
  copy_rows<kHeld>(problem.columns, doutputs,
                   [&](int i) { return i < count ? gradients.dy_at(problem, first + i, head) : nullptr; });
  float log_sum_exp[MmaPlace::kOwn], delta[MmaPlace::kOwn];
#pragma unroll
  for (int i = 0; i < MmaPlace::kOwn; ++i) {
    const int row = place.row(i);
    log_sum_exp[i] = row < count ? kLog2E * gradients.log_sum_exp.row(head)[first + row] : 0;
    delta[i] = row < count ? gradients.delta[int64_t{head} * problem.queries + first + row] : 0;
  }

  const float scale = problem.scale * kLog2E;
  Sums<kSize> dqueries;
  for_key_tiles(problem, place, residents, count, keys,
                [&](int first_key, const auto& tile_keys, const auto& tile_values, const auto& pairs) {
                  const auto kept = keep_keys(problem, place, residents, head, first_key);
                  Scores scores = multiply_rows(place, queries, tile_keys);
                  Scores dscores = multiply_rows(place, doutputs, tile_values);
#pragma unroll
                  for (int i = 0; i < MmaPlace::kOwn; ++i) {
#pragma unroll
                    for (int j = 0; j < MmaPlace::kOwnStreamed; ++j) {
                      const float power = fmaf(scores.of(i, j), scale, -log_sum_exp[i]);
                      const float p = pairs.at(i, j) ? cuda::fast_exp2(power) : 0.0f;
                      const float dp = problem.dropout_scale * dscores.of(i, j);
                      dscores.of(i, j) = gradient_of_score(p, dp, kept.at(i, j), delta[i]);
                    }
                  }
                  add_weighted(place, dscores, tile_keys, dqueries);
                });
  write_rows<true>(place, problem.columns, dqueries, {problem.scale, problem.scale}, queries, count,
                   [&](int i) { return gradients.part(problem, 0, residents[i].row, head); });
}

// What is known of a tile of queries that streams past.
struct StreamedQueries {
  int start[kStreamed];
  uint32_t row_id[kStreamed];
  float log_sum_exp[kStreamed], delta[kStreamed];
};

// Begins to copy the queries from `first` on with all that is known of them, as far as residents meet them.
template <int kSize>
__device__ void copy_queries(const Problem<Bf16>& problem, const Gradients<Bf16>& gradients, int head, int first,
                             int end, const Tile<kSize>& queries, const Tile<kSize>& doutputs,
                             StreamedQueries& streamed) {
  copy_rows<kStreamed>(problem.columns, queries, [&](int i) {
    return first + i < end ? problem.part(0, problem.query_row(first + i), head) : nullptr;
  });
  copy_rows<kStreamed>(problem.columns, doutputs,
                       [&](int i) { return first + i < end ? gradients.dy_at(problem, first + i, head) : nullptr; });
  const int i = static_cast<int>(threadIdx.x), index = first + i;
  if (i >= kStreamed) return;
  const bool exists = index < end, draws = exists && problem.dropout_threshold > 0;
  cuda::copy_async<4>(cuda::shared_address(&streamed.start[i]), gradients.starts + index, exists);
  cuda::copy_async<4>(cuda::shared_address(&streamed.row_id[i]),
                      draws ? problem.row_ids + problem.query_row(index) : nullptr, draws);
  cuda::copy_async<4>(cuda::shared_address(&streamed.log_sum_exp[i]), gradients.log_sum_exp.row(head) + index, exists);
  cuda::copy_async<4>(cuda::shared_address(&streamed.delta[i]),
                      gradients.delta + int64_t{head} * problem.queries + index, exists);
}

template <int kSize>
__global__ void __launch_bounds__(kThreads, key_gradient_blocks(kSize))
    add_key_gradients(Problem<Bf16> problem, Gradients<Bf16> gradients) {
  __shared__ Resident residents[kHeld];
  __shared__ StreamedQueries streamed[2];
  const Tile<kSize> keys{shared_chunks()}, values = keys.behind(kHeld), queries = values.behind(kHeld),
                                           doutputs = queries.behind(2 * kStreamed);
  const MmaPlace place;
  const int thread = static_cast<int>(threadIdx.x), head = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kHeld;
  const int count = min(kHeld, static_cast<int>(problem.qkv.rows()) - first);
  if (thread < kHeld) residents[thread] = problem.key_at(first + thread);
  copy_rows<kHeld>(problem.columns, keys,
                   [&](int i) { return i < count ? problem.part(1, first + i, head) : nullptr; });
  copy_rows<kHeld>(problem.columns, values,
                   [&](int i) { return i < count ? problem.part(2, first + i, head) : nullptr; });
  __syncthreads();

  const float scale = problem.scale * kLog2E;
  Sums<kSize> dkeys, dvalues;
  const int end = residents[count - 1].end;
  const auto copy = [&](int from, int stage) {
    copy_queries(problem, gradients, head, from, end, queries.behind(stage * kStreamed),
                 doutputs.behind(stage * kStreamed), streamed[stage]);
  };
  stream_tiles(place, residents, end, copy, [&](int first_query, int stage) {
    const Pairs<MmaPlace> pairs = meeting(place, residents, first_query);
    if (!warp_meets(pairs)) return;
    const StreamedQueries& known = streamed[stage];
    const Tile<kSize> tile_queries = queries.behind(stage * kStreamed);
    const Tile<kSize> tile_doutputs = doutputs.behind(stage * kStreamed);
    const auto kept = keep_queries(problem, place, known.start[place.lane], known.row_id[place.lane], head, first);
    Scores scores = multiply_rows(place, keys, tile_queries);
    Scores dscores = multiply_rows(place, values, tile_doutputs);
#pragma unroll
    for (int j = 0; j < MmaPlace::kOwnStreamed; ++j) {
      const int query = place.first_streamed() + MmaPlace::offset(j);
      const float log_sum_exp = kLog2E * known.log_sum_exp[query], delta = known.delta[query];
#pragma unroll
      for (int i = 0; i < MmaPlace::kOwn; ++i) {
        const float p = pairs.at(i, j) ? cuda::fast_exp2(fmaf(scores.of(i, j), scale, -log_sum_exp)) : 0.0f;
        const float dp = problem.dropout_scale * dscores.of(i, j);
        dscores.of(i, j) = gradient_of_score(p, dp, kept.at(i, j), delta);
        scores.of(i, j) = kept.at(i, j) ? p : 0.0f;
      }
    }
    add_weighted(place, scores, tile_doutputs, dvalues);
    add_weighted(place, dscores, tile_queries, dkeys);
  });
  write_rows<true>(place, problem.columns, dkeys, {problem.scale, problem.scale}, keys, count,
                   [&](int i) { return gradients.part(problem, 1, first + i, head); });
  write_rows<true>(place, problem.columns, dvalues, {problem.dropout_scale, problem.dropout_scale}, values, count,
                   [&](int i) { return gradients.part(problem, 2, first + i, head); });
}

}  // namespace cuda_attention::bf16

void launch(CudaStream stream, const AttentionForward<Bf16>& args) {
  using namespace cuda_attention;
  using namespace cuda_attention::bf16;
  const Problem<Bf16> problem = problem_of(args);
  with_size(problem, [&](auto size) {
    cuda::start(stream, "attention_forward_bf16", forward<size>, tiles_of<kHeld>(problem.queries, args.heads), kThreads,
                Tile<size>::kHeldBytes + 4 * Tile<size>::kStreamedBytes, problem, args.y, args.log_sum_exp);
  });
}

void launch(CudaStream stream, const AttentionBackward<Bf16>& args) {
  using namespace cuda_attention;
  using namespace cuda_attention::bf16;
  const Problem<Bf16> problem = problem_of(args);
  if (problem.queries == 0) return;
  with_size(problem, [&](auto size) {
    constexpr int64_t kBytes = 2 * Tile<size>::kHeldBytes + 4 * Tile<size>::kStreamedBytes;
    const Gradients<Bf16> gradients = start_gradients(stream, args, problem, size);
    cuda::start(stream, "attention_query_gradients_bf16", add_query_gradients<size>,
                tiles_of<kHeld>(problem.queries, args.heads), kThreads, kBytes, problem, gradients);
    cuda::start(stream, "attention_key_gradients_bf16", add_key_gradients<size>,
                tiles_of<kHeld>(problem.qkv.rows(), args.heads), kThreads, kBytes, problem, gradients);
  });
}

}  // namespace itemloom
