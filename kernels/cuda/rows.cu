// One thread four columns of one picked row.
#include "kernels/rows.h"

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_rows {

template <class T>
struct GatherFours {
  Matrix<const T> x;
  const int64_t* indices;
  Matrix<T> y;
  template <class Lanes>
  __device__ void operator()(int64_t row, int64_t column, Lanes lanes) const {
    lanes.store(lanes.load(x.row(indices[row]) + column), y.row(row) + column);
  }
};

template <class T>
struct ScatterFours {
  Matrix<const T> dy;
  const int64_t* indices;
  Matrix<T> dx;
  template <class Lanes>
  __device__ void operator()(int64_t row, int64_t column, Lanes lanes) const {
    T* to = dx.row(indices[row]) + column;
    const cuda::Four added = lanes.load(dy.row(row) + column);
    cuda::Four sum = lanes.load(to);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.at[k] += added.at[k];
    lanes.store(sum, to);
  }
};

template <class T>
void gather(CudaStream stream, const GatherRows<T>& args) {
  cuda::start_fours_of_rows(stream, "gather_rows", args.indices.size(), args.x.columns(),
                            cuda::fours_aligned(args.x.data(), args.y.data()),
                            GatherFours<T>{args.x, args.indices.data(), args.y});
}

template <class T>
void scatter_add(CudaStream stream, const ScatterAddRows<T>& args) {
  cuda::start_fours_of_rows(stream, "scatter_add_rows", args.indices.size(), args.dy.columns(),
                            cuda::fours_aligned(args.dy.data(), args.dx.data()),
                            ScatterFours<T>{args.dy, args.indices.data(), args.dx});
}

}  // namespace cuda_rows

void launch(CudaStream stream, const GatherRows<float>& args) {
  cuda_rows::gather(stream, args);
}

void launch(CudaStream stream, const GatherRows<Bf16>& args) {
  cuda_rows::gather(stream, args);
}

void launch(CudaStream stream, const ScatterAddRows<float>& args) {
  cuda_rows::scatter_add(stream, args);
}

void launch(CudaStream stream, const ScatterAddRows<Bf16>& args) {
  cuda_rows::scatter_add(stream, args);
}

}  // namespace itemloom
