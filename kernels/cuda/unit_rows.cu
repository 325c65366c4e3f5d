// A warp a row, four columns a lane at a time.
#include "kernels/unit_rows.h"

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_unit_rows {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / cuda::kWarp;

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) unit_rows(UnitRows args) {
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / cuda::kWarp, columns = args.x.columns();
  const int64_t first = 4 * (threadIdx.x % cuda::kWarp);
  if (row >= args.x.rows()) return;
  double sum = 0;
  for (int64_t c = first; c < columns; c += 4 * cuda::kWarp) {
    cuda::with_lanes<kAligned>(columns - c, [&](auto lanes) {
      const cuda::Four x = lanes.load(args.x.row(row) + c);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum += double{x.at[k]} * x.at[k];
    });
  }
  sum = cuda::warp_sum(sum);
  const float scale = sum > 0 ? static_cast<float>(1 / sqrt(sum)) : 0.0f;
  for (int64_t c = first; c < columns; c += 4 * cuda::kWarp) {
    cuda::with_lanes<kAligned>(columns - c, [&](auto lanes) {
      cuda::Four x = lanes.load(args.x.row(row) + c);
#pragma unroll
      for (int k = 0; k < 4; ++k) x.at[k] *= scale;
      lanes.store(x, args.y.row(row) + c);
    });
  }
}

}  // namespace cuda_unit_rows

void launch(CudaStream stream, const UnitRows& args) {
  using namespace cuda_unit_rows;
  const bool aligned = args.x.columns() % 4 == 0 && cuda::fours_aligned(args.x.data(), args.y.data());
  cuda::start(stream, "unit_rows", aligned ? unit_rows<true> : unit_rows<false>,
              cuda::grid(block_count(args.x.rows(), kRowsPerBlock)), kThreads, 0, args);
}

}  // namespace itemloom
