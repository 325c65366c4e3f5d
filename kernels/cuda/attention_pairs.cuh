// Which pairs of a thread's rows dropout keeps. kernels/cuda/attention.cu tells the whole.
//
// A Place says where a thread stands: its warp's kWarpRows rows of the tile that stays, of which it has kOwn, and the
// kOwnStreamed of the rows that stream past, which lie at first_streamed() + offset(j).
#pragma once

#include <cstdint>

#include "core/rng.h"
#include "kernels/cuda/attention_problem.cuh"

namespace itemloom::cuda_attention {

// A bit for every pair of a thread's rows and streamed rows, those of row i at Place::offset(j).
template <class Place>
struct Pairs {
  uint32_t of_row[Place::kOwn];
  __device__ bool at(int i, int j) const { return of_row[i] >> Place::offset(j) & 1; }
};
template <class Place>
__device__ Pairs<Place> all_pairs() {
  Pairs<Place> pairs;
#pragma unroll
  for (int i = 0; i < Place::kOwn; ++i) pairs.of_row[i] = ~0u;
  return pairs;
}

// Bit c tells whether column first_column + c of a row is kept, for kSpan columns, a multiple of eight.
template <int kSpan, class T>
__device__ uint32_t keep_bits(const Problem<T>& problem, int head, uint32_t row_id, int first_column) {
  const DropoutKey& key = problem.key;
  uint32_t bits = 0;
#pragma unroll
  for (int block = 0; block <= kSpan / 8; ++block) {
    const uint32_t chunk = static_cast<uint32_t>((first_column >> 3) + block);
    const PhiloxBlock words = philox({chunk, key.stream + static_cast<uint32_t>(head), row_id, key.step()},
                                     static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      bits |= uint32_t{(words[word] & 0xFFFF) >= problem.dropout_threshold} << (block * 8 + word * 2);
      bits |= uint32_t{words[word] >> 16 >= problem.dropout_threshold} << (block * 8 + word * 2 + 1);
    }
  }
  return bits >> (first_column & 7);
}

// Where queries stay: a lane draws for a part of the tile's keys of one of the warp's rows.
template <class Place, class T>
__device__ Pairs<Place> keep_keys(const Problem<T>& problem, const Place& place, const Resident* residents, int head,
                                  int first_key) {
  if (problem.dropout_threshold == 0) return all_pairs<Place>();
  constexpr int kSpan = Place::kWarpRows, kLanesPerRow = kStreamed / kSpan;
  const Resident& row = residents[place.warp * Place::kWarpRows + place.lane / kLanesPerRow];
  const uint32_t drawn =
      keep_bits<kSpan>(problem, head, row.row_id, first_key + place.lane % kLanesPerRow * kSpan - row.start);
  constexpr uint32_t kSpanBits = (1u << kSpan) - 1;
  Pairs<Place> kept;
#pragma unroll
  for (int i = 0; i < Place::kOwn; ++i) {
    uint32_t bits = 0;
#pragma unroll
    for (int part = 0; part < kLanesPerRow; ++part) {
      const int lane = place.warp_row(i) * kLanesPerRow + part;
      bits |= (__shfl_sync(cuda::kAllLanes, drawn, lane) & kSpanBits) << (part * kSpan);
    }
    kept.of_row[i] = bits >> place.first_streamed();
  }
  return kept;
}

// Where keys stay: a lane draws for the warp's keys of one query of the tile, whose sequence and row id are given.
template <class Place, class T>
__device__ Pairs<Place> keep_queries(const Problem<T>& problem, const Place& place, int start, uint32_t row_id,
                                     int head, int first_key) {
  if (problem.dropout_threshold == 0) return all_pairs<Place>();
  const uint32_t drawn =
      keep_bits<Place::kWarpRows>(problem, head, row_id, first_key + place.warp * Place::kWarpRows - start);
  Pairs<Place> kept;
#pragma unroll
  for (int i = 0; i < Place::kOwn; ++i) kept.of_row[i] = 0;
#pragma unroll
  for (int j = 0; j < Place::kOwnStreamed; ++j) {
    const uint32_t bits = __shfl_sync(cuda::kAllLanes, drawn, place.first_streamed() + Place::offset(j));
#pragma unroll
    for (int i = 0; i < Place::kOwn; ++i) kept.of_row[i] |= (bits >> place.warp_row(i) & 1) << Place::offset(j);
  }
  return kept;
}

}  // namespace itemloom::cuda_attention
