// Sum of squares: one block of threads sums one of the fixed blocks of elements in double.
// Column sums: a block of threads sums kRows rows of 32 columns into a partial row; then a block of threads takes 32
// columns of all partial rows, each of its warps every 32nd of them, and adds up its warps' sums in order.
#include "kernels/reduce.h"

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/partials.cuh"

namespace itemloom {
namespace cuda_reduce {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int64_t kRows = kColumnSumRows;
// Few blocks add up partial rows, so they are big.
constexpr int kAddThreads = 1024;
constexpr int kAddWarps = kAddThreads / cuda::kWarp;

template <bool kAligned>
__global__ void sum_of_squares(Vector<const float> x, double* partials) {
  __shared__ double shared[kWarps];
  const int64_t begin = blockIdx.x * kSumOfSquaresBlock;
  const int64_t end = min(begin + kSumOfSquaresBlock, x.size());
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * kThreads) {
    cuda::with_lanes<kAligned>(end - i, [&](auto lanes) {
      const cuda::Four values = lanes.load(x.data() + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum += double{values.at[k]} * values.at[k];
    });
  }
  sum = cuda::block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

template <class T>
__global__ void sum_row_block(Matrix<const T> x, float* partials) {
  __shared__ float sums[kWarps][cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int64_t column = int64_t{blockIdx.y} * cuda::kWarp + lane;
  const int64_t begin = blockIdx.x * kRows, end = min(begin + kRows, x.rows());
  float sum = 0;
  if (column < x.columns()) {
#pragma unroll 4
    for (int64_t row = begin + warp; row < end; row += kWarps) sum += cuda::load(x.row(row) + column);
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < x.columns()) partials[blockIdx.x * x.columns() + column] = cuda::add_warps(sums, lane);
}

template <class T>
__global__ void __launch_bounds__(kAddThreads)
    add_partials(cuda::Partials<T> partials, float* first_y, float* second_y, float* third_y) {
  __shared__ float sums[kAddWarps][cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int64_t column = int64_t{blockIdx.x} * cuda::kWarp + lane;
  const T* from = partials.rows + blockIdx.y * partials.columns + column;
  float* y = (blockIdx.y == 0 ? first_y : blockIdx.y == 1 ? second_y : third_y) + column;
  float sum = 0;
  if (column < partials.columns) {
#pragma unroll 4
    for (int64_t row = warp; row < partials.count; row += kAddWarps) sum += cuda::load(from + row * partials.stride);
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && column < partials.columns) *y += cuda::add_warps(sums, lane);
}

template <class T>
void start_adding(CudaStream stream, const cuda::Partials<T>& partials, float* y, float* second_y, float* third_y) {
  if (partials.count == 0) return;
  const unsigned outputs = 1 + (second_y != nullptr) + (third_y != nullptr);
  cuda::start(stream, "add_partials", add_partials<T>,
              dim3(static_cast<unsigned>(block_count(partials.columns, cuda::kWarp)), outputs), kAddThreads, 0,
              partials, y, second_y, third_y);
}

template <class T>
void sum_columns(CudaStream stream, const ColumnSum<T>& args) {
  const int64_t columns = args.x.columns(), blocks = block_count(args.x.rows(), kRows);
  if (blocks == 0 || columns == 0) return;
  float* partials = reinterpret_cast<float*>(stream.context->scratch(scratch_bytes(stream, args)));
  dim3 grid = cuda::grid(blocks);
  grid.y = static_cast<unsigned>(block_count(columns, cuda::kWarp));
  cuda::start(stream, "column_sum", sum_row_block<T>, grid, kThreads, 0, args.x, partials);
  cuda::add_partials(stream, {.rows = partials, .count = blocks, .columns = columns, .stride = columns}, args.y.data());
}

}  // namespace cuda_reduce

void cuda::add_partials(CudaStream stream, const Partials<float>& partials, float* y, float* second_y, float* third_y) {
  cuda_reduce::start_adding(stream, partials, y, second_y, third_y);
}

void cuda::add_partials(CudaStream stream, const Partials<Bf16>& partials, float* y) {
  cuda_reduce::start_adding(stream, partials, y, nullptr, nullptr);
}

void launch(CudaStream stream, const SumOfSquares& args) {
  using namespace cuda_reduce;
  cuda::start(stream, "sum_of_squares",
              cuda::fours_aligned(args.x.data()) ? sum_of_squares<true> : sum_of_squares<false>,
              cuda::grid(args.partials.size()), kThreads, 0, args.x, args.partials.data());
}

void launch(CudaStream stream, const ColumnSum<float>& args) {
  cuda_reduce::sum_columns(stream, args);
}

void launch(CudaStream stream, const ColumnSum<Bf16>& args) {
  cuda_reduce::sum_columns(stream, args);
}

}  // namespace itemloom
