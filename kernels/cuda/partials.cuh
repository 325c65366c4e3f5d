// Sums over the rows of a matrix: a block of threads sums a fixed block of rows into one partial row, and partial rows
// are added up afterwards. Threads of a block lie as warps under each other: a warp reads 32 neighbouring columns of a
// row, the block's warps take the rows in turn.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "kernels/cuda/launch.cuh"

namespace itemloom::cuda {

// sums[0][lane] + sums[1][lane] + ... over the warps, for one column a lane.
template <int kWarps>
__device__ float add_warps(const float (&sums)[kWarps][kWarp], int lane) {
  float sum = sums[0][lane];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) sum += sums[warp][lane];
  return sum;
}

// `count` partial rows of `columns` elements each, `stride` elements apart.
template <class T>
struct Partials {
  const T* rows;
  int64_t count, columns, stride;
};

// y[c] += the sum over the rows of partials.rows[row * stride + c]; the same for second_y and third_y, when given, with
// the columns that follow.
void add_partials(CudaStream stream, const Partials<float>& partials, float* y, float* second_y = nullptr,
                  float* third_y = nullptr);
void add_partials(CudaStream stream, const Partials<Bf16>& partials, float* y);

}  // namespace itemloom::cuda
