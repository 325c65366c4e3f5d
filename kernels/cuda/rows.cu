// One thread four columns of one picked row.
#include "kernels/rows.h"

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_rows {

struct GatherFours {
  Matrix<const float> x;
  const int64_t* indices;
  Matrix<float> y;
  template <class Lanes>
  __device__ void operator()(int64_t row, int64_t column, Lanes lanes) const {
    lanes.store(lanes.load(x.row(indices[row]) + column), y.row(row) + column);
  }
};

struct ScatterFours {
  Matrix<const float> dy;
  const int64_t* indices;
  Matrix<float> dx;
  template <class Lanes>
  __device__ void operator()(int64_t row, int64_t column, Lanes lanes) const {
    float* to = dx.row(indices[row]) + column;
    const cuda::Four added = lanes.load(dy.row(row) + column);
    cuda::Four sum = lanes.load(to);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.at[k] += added.at[k];
    lanes.store(sum, to);
  }
};

}  // namespace cuda_rows

void launch(CudaStream stream, const GatherRows& args) {
  cuda::start_fours_of_rows(stream, "gather_rows", args.indices.size(), args.x.columns(),
                            cuda::fours_aligned(args.x.data(), args.y.data()),
                            cuda_rows::GatherFours{args.x, args.indices.data(), args.y});
}

void launch(CudaStream stream, const ScatterAddRows& args) {
  cuda::start_fours_of_rows(stream, "scatter_add_rows", args.indices.size(), args.dy.columns(),
                            cuda::fours_aligned(args.dy.data(), args.dx.data()),
                            cuda_rows::ScatterFours{args.dy, args.indices.data(), args.dx});
}

}  // namespace itemloom
