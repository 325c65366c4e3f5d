// Which queries and keys meet, and which of their pairs dropout keeps. kernels/cuda/attention.cu tells the whole.
#pragma once

#include <cstdint>

#include "core/rng.h"
#include "core/view.h"
#include "kernels/cuda/attention_tiles.cuh"

namespace itemloom::cuda_attention {

// A row that stays, the interval of rows that it meets, and where its sequence starts.
struct Resident {
  int row, begin, end, start;
  uint32_t row_id;

  __device__ bool meets(int other) const { return other >= begin && other < end; }
  __device__ bool meets_any(int first, int last) const { return begin <= last && end > first; }
};

// What the kernels share of AttentionForward and AttentionBackward.
struct Problem {
  Matrix<const float> qkv;
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
  __device__ const float* part(int part, int row, int head) const {
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
    if (causal) result.begin = row;
    return result;
  }

  // Bit c tells whether column first_column + c of a row is kept, for kSpan columns, a multiple of eight.
  template <int kSpan>
  __device__ uint32_t keep_bits(int head, uint32_t row_id, int first_column) const {
    uint32_t bits = 0;
#pragma unroll
    for (int block = 0; block <= kSpan / 8; ++block) {
      const uint32_t chunk = static_cast<uint32_t>((first_column >> 3) + block);
      const PhiloxBlock words = philox({chunk, key.stream + static_cast<uint32_t>(head), row_id, key.step},
                                       static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        bits |= uint32_t{(words[word] & 0xFFFF) >= dropout_threshold} << (block * 8 + word * 2);
        bits |= uint32_t{words[word] >> 16 >= dropout_threshold} << (block * 8 + word * 2 + 1);
      }
    }
    return bits >> (first_column & 7);
  }
};

// Whether a pair of a thread's rows and streamed rows is kept, bit j of the thread's row i.
template <int kOwn>
struct Kept {
  uint32_t of_row[kOwn];
  __device__ bool at(int i, int j) const { return of_row[i] >> j & 1; }
};
template <int kOwn>
__device__ Kept<kOwn> all_kept() {
  Kept<kOwn> kept;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) kept.of_row[i] = ~0u;
  return kept;
}

// Where queries stay: a lane draws for a part of the tile's keys of one of the warp's rows.
template <class Shape, int kOwn>
__device__ Kept<kOwn> keep_keys(const Problem& problem, const Place& place, const Resident* residents, int head,
                                int first_key) {
  if (problem.dropout_threshold == 0) return all_kept<kOwn>();
  constexpr int kSpan = Shape::kWarpRows, kLanesPerRow = kStreamed / kSpan;
  const Resident& row = residents[place.warp * Shape::kWarpRows + place.lane / kLanesPerRow];
  const uint32_t drawn =
      problem.keep_bits<kSpan>(head, row.row_id, first_key + place.lane % kLanesPerRow * kSpan - row.start);
  Kept<kOwn> kept;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    kept.of_row[i] = 0;
#pragma unroll
    for (int j = 0; j < kOwnStreamed; ++j) {
      const int lane = (i * kGroups + place.group) * kLanesPerRow + j * kGroup / kSpan;
      const uint32_t bits = __shfl_sync(cuda::kAllLanes, drawn, lane);
      kept.of_row[i] |= (bits >> (j * kGroup % kSpan + place.member) & 1) << j;
    }
  }
  return kept;
}

// Where keys stay: a lane draws for the warp's keys of one query of the tile.
template <class Shape, int kOwn>
__device__ Kept<kOwn> keep_queries(const Problem& problem, const Place& place, const Resident& query, int head,
                                   int first_key) {
  if (problem.dropout_threshold == 0) return all_kept<kOwn>();
  const uint32_t drawn =
      problem.keep_bits<Shape::kWarpRows>(head, query.row_id, first_key + place.warp * Shape::kWarpRows - query.start);
  Kept<kOwn> kept;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) kept.of_row[i] = 0;
#pragma unroll
  for (int j = 0; j < kOwnStreamed; ++j) {
    const uint32_t bits = __shfl_sync(cuda::kAllLanes, drawn, place.streamed(j));
#pragma unroll
    for (int i = 0; i < kOwn; ++i) kept.of_row[i] |= (bits >> (i * kGroups + place.group) & 1) << j;
  }
  return kept;
}

// Whether any row of the warp meets a row of [first, last].
template <class Shape>
__device__ bool warp_meets(const Place& place, const Resident* residents, int first, int last) {
  const bool mine =
      place.lane < Shape::kWarpRows && residents[place.warp * Shape::kWarpRows + place.lane].meets_any(first, last);
  return __any_sync(cuda::kAllLanes, mine);
}

}  // namespace itemloom::cuda_attention
