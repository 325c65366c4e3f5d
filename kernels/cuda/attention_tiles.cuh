// Tiles of a head's rows in shared memory and their two products. kernels/cuda/attention.cu tells the whole.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_problem.cuh"

namespace itemloom::cuda_attention {

// In a warp eight lanes beside each other share a row of a tile, four groups of eight have different ones.
constexpr int kGroup = 8;
constexpr int kGroups = cuda::kWarp / kGroup;
// How many rows of a tile that streams past a thread has.
constexpr int kOwnStreamed = kStreamed / kGroup;

// Where a thread stands: warps own the tile's rows, a thread every fourth of its warp's and every eighth that streams.
template <int kOwnRows>
struct Place {
  static constexpr int kOwn = kOwnRows, kOwnStreamed = cuda_attention::kOwnStreamed;
  static constexpr int kWarpRows = kGroups * kOwn;

  int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  int group = lane / kGroup;
  int member = lane % kGroup;

  __device__ int warp_row(int own) const { return own * kGroups + group; }
  __device__ int row(int own) const { return warp * kWarpRows + warp_row(own); }
  __device__ int first_streamed() const { return member; }
  static __host__ __device__ constexpr int offset(int own) { return own * kGroup; }
  __device__ int streamed(int own) const { return first_streamed() + offset(own); }
};

// A tile that stays: kOwn rows a thread, of heads of up to kSize columns. Rows of a head are padded with zeros to kSize
// and lie kStride apart, which lets eight rows be read at the same column without two in one bank.
template <int kSize, int kOwn>
struct Tile {
  static constexpr int kRows = kWarps * Place<kOwn>::kWarpRows;
  static constexpr int kStride = kSize + 4;
  static constexpr int kWeightStride = kStreamed + 8;
  // Output columns of a thread: kPieces pieces of kPiece beside each other.
  static constexpr int kPiece = kSize >= 4 * kGroup ? 4 : kSize / kGroup;
  static constexpr int kPieces = kSize / (kPiece * kGroup);

  static constexpr int64_t kRowsBytes = int64_t{kRows} * kStride * 4;
  static constexpr int64_t kStreamedBytes = int64_t{kStreamed} * kStride * 4;
  static constexpr int64_t kWeightsBytes = int64_t{kRows} * kWeightStride * 4;
};

template <int kPiece>
struct alignas(kPiece * sizeof(float)) Piece {
  float at[kPiece];
};
template <int kSize, int kOwn>
struct Sums {
  using Shape = Tile<kSize, kOwn>;
  Piece<Shape::kPiece> at[kOwn][Shape::kPieces] = {};
};

__device__ inline float4 load_four(const float* from, int count, bool fours) {
  if (fours) return *reinterpret_cast<const float4*>(from);
  return make_float4(from[0], count > 1 ? from[1] : 0.0f, count > 2 ? from[2] : 0.0f, count > 3 ? from[3] : 0.0f);
}

// to[i] = scale * row(i) for kRows rows by the whole block; row(i) is where a row begins, or nullptr for zeros. Eight
// lanes store at a time. Where they have two rows, of heads of 16, these are four rows apart: neighbours would share
// banks.
template <int kSize, int kRows, class Row>
__device__ void load_rows(const Columns& columns, float scale, float* to, Row row) {
  constexpr int kFours = kSize / 4;
  static_assert(kFours >= 4 && kRows % 8 == 0);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kFours; i += kThreads) {
    const int place = i / kFours, column = i % kFours * 4;
    const int index = kFours >= 8 ? place : place / 8 * 8 + place % 2 * 4 + place % 8 / 2;
    const float* from = row(index);
    float4 value = make_float4(0, 0, 0, 0);
    if (from && column < columns.count) value = load_four(from + column, columns.count - column, columns.aligned);
    reinterpret_cast<float4*>(to)[index * (kFours + 1) + i % kFours] =
        make_float4(scale * value.x, scale * value.y, scale * value.z, scale * value.w);
  }
}

// products[i][j] = row i of `rows` times row j of `streamed`, for a thread's rows of both.
template <int kSize, int kOwn>
__device__ void multiply_rows(const Place<kOwn>& place, const float* rows, const float* streamed,
                              float (&products)[kOwn][kOwnStreamed]) {
  using Shape = Tile<kSize, kOwn>;
  const float* a = rows + place.row(0) * Shape::kStride;
  const float* b = streamed + place.member * Shape::kStride;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwnStreamed; ++j) products[i][j] = 0;
  }
#pragma unroll 4
  for (int column = 0; column < kSize; column += 4) {
    float4 right[kOwnStreamed];
#pragma unroll
    for (int j = 0; j < kOwnStreamed; ++j) {
      right[j] = *reinterpret_cast<const float4*>(b + j * kGroup * Shape::kStride + column);
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float4 left = *reinterpret_cast<const float4*>(a + i * kGroups * Shape::kStride + column);
#pragma unroll
      for (int j = 0; j < kOwnStreamed; ++j) {
        products[i][j] += left.x * right[j].x;
        products[i][j] += left.y * right[j].y;
        products[i][j] += left.z * right[j].z;
        products[i][j] += left.w * right[j].w;
      }
    }
  }
}

// sums[i] += sum_j weights[i][j] * streamed[j]: a warp's weights pass through shared memory, which no other warp uses.
template <int kSize, int kOwn>
__device__ void add_weighted(const Place<kOwn>& place, const float (&own_weights)[kOwn][kOwnStreamed], float* weights,
                             const float* streamed, Sums<kSize, kOwn>& sums) {
  using Shape = Tile<kSize, kOwn>;
  float* a = weights + place.row(0) * Shape::kWeightStride;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwnStreamed; ++j)
      a[i * kGroups * Shape::kWeightStride + place.streamed(j)] = own_weights[i][j];
  }
  __syncwarp();
  const float* b = streamed + place.member * Shape::kPiece;
#pragma unroll 2
  for (int row = 0; row < kStreamed; row += 4) {
    float4 left[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      left[i] = *reinterpret_cast<const float4*>(a + i * kGroups * Shape::kWeightStride + row);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int p = 0; p < Shape::kPieces; ++p) {
        const auto right =
            *reinterpret_cast<const Piece<Shape::kPiece>*>(b + (row + k) * Shape::kStride + p * kGroup * Shape::kPiece);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          const float weight = k == 0 ? left[i].x : k == 1 ? left[i].y : k == 2 ? left[i].z : left[i].w;
#pragma unroll
          for (int c = 0; c < Shape::kPiece; ++c) sums.at[i][p].at[c] += weight * right.at[c];
        }
      }
    }
  }
}

// to (=|+=) factor * sums of one of a thread's rows, as far as the head goes.
template <bool kAdd, int kSize, int kOwn>
__device__ void write_row(const Place<kOwn>& place, const Columns& columns, const Sums<kSize, kOwn>& sums, int own,
                          float factor, float* to) {
  using Shape = Tile<kSize, kOwn>;
  using Values = Piece<Shape::kPiece>;
#pragma unroll
  for (int p = 0; p < Shape::kPieces; ++p) {
    const int column = (p * kGroup + place.member) * Shape::kPiece;
    Values values = sums.at[own][p];
#pragma unroll
    for (int c = 0; c < Shape::kPiece; ++c) values.at[c] *= factor;
    if (columns.aligned && column < columns.count) {
      auto* target = reinterpret_cast<Values*>(to + column);
      const Values before = kAdd ? *target : Values();
#pragma unroll
      for (int c = 0; c < Shape::kPiece; ++c) values.at[c] += before.at[c];
      *target = values;
    } else {
#pragma unroll
      for (int c = 0; c < Shape::kPiece; ++c) {
        if (column + c < columns.count) to[column + c] = kAdd ? to[column + c] + values.at[c] : values.at[c];
      }
    }
  }
}

// Whether any row of the warp meets a row of [first, last].
template <int kOwn>
__device__ bool warp_meets(const Place<kOwn>& place, const Resident* residents, int first, int last) {
  constexpr int kWarpRows = Place<kOwn>::kWarpRows;
  const bool mine = place.lane < kWarpRows && residents[place.warp * kWarpRows + place.lane].meets_any(first, last);
  return __any_sync(cuda::kAllLanes, mine);
}

}  // namespace itemloom::cuda_attention
