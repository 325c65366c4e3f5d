// Reductions in fixed-size blocks whose boundaries do not depend on the number of threads.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

inline constexpr int64_t kSumOfSquaresBlock = 16384;

// partials[b] = sum of x^2 over block b of kSumOfSquaresBlock elements, in double; infinite or NaN when x holds such a
// value there (which is how a non-finite gradient is found). Their sum in order is the whole sum, whoever made them.
struct SumOfSquares {
  Vector<const float> x;
  Vector<double> partials;  // (ceil(size of x / kSumOfSquaresBlock)), overwritten
};
void launch(CpuStream stream, const SumOfSquares& args);
void launch(CudaStream stream, const SumOfSquares& args);

// y[c] += sum_r x[r][c]: the gradient of a bias.
template <class T>
struct ColumnSum {
  Matrix<const T> x;  // (N, C)
  Vector<float> y;    // (C), added into
};
void launch(CpuStream stream, const ColumnSum<float>& args);
int64_t scratch_bytes(CpuStream stream, const ColumnSum<float>& args);
void launch(CudaStream stream, const ColumnSum<float>& args);
void launch(CudaStream stream, const ColumnSum<Bf16>& args);

// Rows that make one partial row on CUDA.
inline constexpr int64_t kColumnSumRows = 64;
template <class T>
int64_t scratch_bytes(CudaStream, const ColumnSum<T>& args) {
  return block_count(args.x.rows(), kColumnSumRows) * args.x.columns() * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
