// Tiles of a head's rows in shared memory as bf16, and their products by tensor cores. kernels/cuda/attention_bf16.cu
// tells the whole.
//
// A row has kSize columns, padded with zeros, in chunks of eight columns, 16 bytes: what is copied, read by ldmatrix
// and written at once. A chunk lies at its place exclusive-or a number that depends on the row, such that both the same
// chunk of eight rows (ldmatrix) and eight chunks one after the other (copies) meet all 32 banks: rows of 128 bytes or
// more take the lowest bits of the row, shorter ones the lowest bits of the 128-byte line that they share.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_pairs.cuh"
#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/storage.cuh"

namespace itemloom::cuda_attention::bf16 {

using cuda::Fragments;
using cuda::Product;

// Where a thread stands: a warp owns 16 rows of the tile that stays and multiplies them with all rows that stream past.
struct MmaPlace {
  static constexpr int kOwn = 2, kWarpRows = 16, kOwnStreamed = kStreamed / 4;

  int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  int group = lane / 4;
  int member = lane % 4;

  __device__ int warp_row(int own) const { return own * 8 + group; }
  __device__ int row(int own) const { return warp * kWarpRows + warp_row(own); }
  __device__ int first_streamed() const { return member * 2; }
  static __host__ __device__ constexpr int offset(int own) { return own / 2 * 8 + own % 2; }
};

// Rows of a tile that stays.
constexpr int kHeld = kWarps * MmaPlace::kWarpRows;

// A warp's products of its rows with those that stream past, 16 rows by kStreamed, and with columns of a head.
struct Scores {
  Product at[kStreamed / 8];

  __device__ float& of(int i, int j) { return at[j / 2].at[i * 2 + j % 2]; }
};
template <int kSize>
struct Sums {
  Product at[kSize / 8];
};

// A tile of rows in shared memory.
template <int kSize>
struct Tile {
  static constexpr int kChunks = kSize / kChunk<Bf16>;
  static constexpr int kLineChunks = 8;
  static constexpr int kRowsPerLine = kChunks < kLineChunks ? kLineChunks / kChunks : 1;
  static constexpr int kSwizzles = kChunks < kLineChunks ? kChunks : kLineChunks;
  static constexpr int64_t kHeldBytes = int64_t{kHeld} * kSize * 2;
  static constexpr int64_t kStreamedBytes = int64_t{kStreamed} * kSize * 2;

  uint4* chunks;

  static __device__ int place_of(int row, int chunk) {
    return row * kChunks + (chunk ^ (row / kRowsPerLine % kSwizzles));
  }
  __device__ uint4* at(int row, int chunk) const { return chunks + place_of(row, chunk); }
  // The same as PTX names it: a number of half the registers.
  __device__ uint32_t address(int row, int chunk) const {
    return cuda::shared_address(chunks) + static_cast<uint32_t>(place_of(row, chunk)) * 16;
  }
  // The tile behind `rows` rows of this one.
  __device__ Tile behind(int rows) const { return {chunks + rows * kChunks}; }
};

// Copies row(i), where a row's columns begin, or zeros for nullptr, to the first kRows rows of a tile, by the whole
// block. They are there after wait_copies() and a barrier.
template <int kRows, int kSize, class Row>
__device__ void copy_rows(const Columns& columns, const Tile<kSize>& tile, Row row) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < kRows * Tile<kSize>::kChunks; i += kThreads) {
    const int index = i / Tile<kSize>::kChunks, chunk = i % Tile<kSize>::kChunks, column = chunk * kChunk<Bf16>;
    const Bf16* from = row(index);
    const bool exists = from && column < columns.count;
    if (columns.aligned) {
      cuda::copy_async<16>(tile.address(index, chunk), exists ? from + column : nullptr, exists);
    } else {
      *reinterpret_cast<Chunk<Bf16>*>(tile.at(index, chunk)) =
          exists ? load_chunk(columns, from, column) : Chunk<Bf16>{};
    }
  }
}

// scores = the warp's rows times streamed rows.
template <int kSize>
__device__ Scores multiply_rows(const MmaPlace& place, const Tile<kSize>& rows, const Tile<kSize>& streamed) {
  Scores scores;
  const int left_row = place.warp * MmaPlace::kWarpRows + place.lane % 16, left_half = place.lane / 16;
  const int row = place.lane % 8 + place.lane / 16 * 8, half = place.lane / 8 % 2;
#pragma unroll 4
  for (int k = 0; k < kSize / 16; ++k) {
    const Fragments left = cuda::load_matrices(rows.address(left_row, k * 2 + left_half));
#pragma unroll
    for (int n = 0; n < kStreamed / 16; ++n) {
      const Fragments right = cuda::load_matrices(streamed.address(n * 16 + row, k * 2 + half));
      cuda::multiply_add(left, right, 0, scores.at[n * 2]);
      cuda::multiply_add(left, right, 1, scores.at[n * 2 + 1]);
    }
  }
  return scores;
}

// sums += weights times streamed rows. The weights are rounded to bf16; as products lie among the lanes, so do left
// operands.
template <int kSize>
__device__ void add_weighted(const MmaPlace& place, const Scores& weights, const Tile<kSize>& streamed,
                             Sums<kSize>& sums) {
#pragma unroll
  for (int k = 0; k < kStreamed / 16; ++k) {
    const float(&near)[4] = weights.at[k * 2].at, (&far)[4] = weights.at[k * 2 + 1].at;
    const Fragments left = {cuda::pack_bf16(near[0], near[1]), cuda::pack_bf16(near[2], near[3]),
                            cuda::pack_bf16(far[0], far[1]), cuda::pack_bf16(far[2], far[3])};
#pragma unroll
    for (int n = 0; n < kSize / 16; ++n) {
      const Fragments right =
          cuda::load_matrices_transposed(streamed.address(k * 16 + place.lane % 16, n * 2 + place.lane / 16));
      cuda::multiply_add(left, right, 0, sums.at[n * 2]);
      cuda::multiply_add(left, right, 1, sums.at[n * 2 + 1]);
    }
  }
}

// The sums of two chunks of bf16, element by element.
__device__ inline uint4 add_chunks(uint4 a, uint4 b) {
  const auto add = [](uint32_t x, uint32_t y) {
    return cuda::pack_bf16(cuda::first_of(x) + cuda::first_of(y), cuda::second_of(x) + cuda::second_of(y));
  };
  return make_uint4(add(a.x, b.x), add(a.y, b.y), add(a.z, b.z), add(a.w, b.w));
}

// row(i) (=|+=) factors[...] * sums of row i of the tile, for the warp's rows below `count`, as far as the head goes.
// They pass through `tile`, whose rows of this warp nobody reads any more, so that rows are written chunk by chunk.
template <bool kAdd, int kSize, class Row>
__device__ void write_rows(const MmaPlace& place, const Columns& columns, const Sums<kSize>& sums,
                           const float (&factors)[MmaPlace::kOwn], const Tile<kSize>& tile, int count, Row row) {
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kSize / 8; ++n) {
#pragma unroll
    for (int i = 0; i < MmaPlace::kOwn; ++i) {
      reinterpret_cast<uint32_t*>(tile.at(place.row(i), n))[place.member] =
          cuda::pack_bf16(factors[i] * sums.at[n].at[i * 2], factors[i] * sums.at[n].at[i * 2 + 1]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = place.lane; i < MmaPlace::kWarpRows * Tile<kSize>::kChunks; i += cuda::kWarp) {
    const int index = place.warp * MmaPlace::kWarpRows + i / Tile<kSize>::kChunks, chunk = i % Tile<kSize>::kChunks;
    const int column = chunk * kChunk<Bf16>;
    if (index >= count || column >= columns.count) continue;
    Bf16* to = row(index) + column;
    const uint4 values = *tile.at(index, chunk);
    if (columns.aligned) {
      auto* target = reinterpret_cast<uint4*>(to);
      if constexpr (kAdd) {
        // All of it before any of it is used, which keeps it one access.
        const uint4 before = *target;
        *target = add_chunks(before, values);
      } else {
        *target = values;
      }
    } else {
      const uint32_t pairs[] = {values.x, values.y, values.z, values.w};
#pragma unroll
      for (int c = 0; c < kChunk<Bf16>; ++c) {
        if (column + c >= columns.count) continue;
        const float value = c % 2 == 0 ? cuda::first_of(pairs[c / 2]) : cuda::second_of(pairs[c / 2]);
        cuda::store(kAdd ? cuda::load(to + c) + value : value, to + c);
      }
    }
  }
}

}  // namespace itemloom::cuda_attention::bf16
