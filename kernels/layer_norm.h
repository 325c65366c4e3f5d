// Layer normalisation over the last axis (Ba et al. 2016), two-pass variance, of x or of a residual stream's next sum:
//
//   sum[r][c] = residual[r][c] + keep * dropout_scale * x[r][c], with the masks of kernels/dropout.h; or x itself
//   mean_r = 1/C sum_c sum[r][c],  inverse_std_r = 1 / sqrt(1/C sum_c (sum[r][c] - mean_r)^2 + epsilon)
//   y[r][c] = (sum[r][c] - mean_r) * inverse_std_r * gamma[c] + beta[c]
//
// of sum as it is stored. Backward, with n = (sum - mean) inverse_std, g = dy gamma and the same masks drawn again:
//
//   total = dsum + inverse_std (g - mean_c(g) - n mean_c(g n))
//   dx += keep * dropout_scale * total,  dresidual += total,  dgamma += sum_r dy n,  dbeta += sum_r dy
//
// and, where x is a product with a bias that nobody else has read, dx = ... in place of dx += ... and dbias += sum_r
// dx. Column sums run over fixed row blocks and are added in block order.
//
// All at once because passes over memory are what it costs. Of (N, C): forward 4, where dropout and a norm apart take
// 5; backward behind a product 6, where they, a dx that starts at zero and column sums of their own take 11.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

template <class T>
struct LayerNormForward {
  Matrix<const T> x;               // (N, C)
  Matrix<const T> residual;        // (N, C), or none(): zero
  Vector<const uint32_t> row_ids;  // (N), or none() where nothing is dropped
  float probability;               // of dropout, in [0, 1)
  DropoutKey key;
  Vector<const float> gamma;  // (C)
  Vector<const float> beta;   // (C)
  float epsilon;
  Matrix<T> sum;              // (N, C), overwritten; may be x itself; none(): x is the sum as it is
  Matrix<T> y;                // (N, C), overwritten
  Vector<float> mean;         // (N), overwritten, kept for backward
  Vector<float> inverse_std;  // (N), overwritten, kept for backward
};
void launch(CpuStream stream, const LayerNormForward<float>& args);
void launch(CudaStream stream, const LayerNormForward<float>& args);
void launch(CudaStream stream, const LayerNormForward<Bf16>& args);

template <class T>
struct LayerNormBackward {
  Matrix<const T> dy;    // (N, C)
  Matrix<const T> dsum;  // (N, C): what else has used the sum; or none()
  Matrix<const T> sum;   // (N, C), or x where it is that
  Vector<const float> gamma;
  Vector<const float> mean;
  Vector<const float> inverse_std;
  Vector<const uint32_t> row_ids;
  float probability;
  DropoutKey key;
  Matrix<T> dx;          // (N, C), added into; where dbias is given overwritten, and may be dy itself
  Matrix<T> dresidual;   // (N, C), added into, or none()
  Vector<float> dbias;   // (C), added into, or none()
  Vector<float> dgamma;  // (C), added into
  Vector<float> dbeta;   // (C), added into

  // Of a block of rows: sums for dgamma, dbeta and, where it is given, dbias.
  constexpr int64_t sums_columns() const { return (dbias ? 3 : 2) * sum.columns(); }
};
void launch(CpuStream stream, const LayerNormBackward<float>& args);
int64_t scratch_bytes(CpuStream stream, const LayerNormBackward<float>& args);
void launch(CudaStream stream, const LayerNormBackward<float>& args);
void launch(CudaStream stream, const LayerNormBackward<Bf16>& args);

// Rows whose gradients of gamma, beta and bias make one partial row on CUDA.
inline constexpr int kLayerNormSumRows = 16;
template <class T>
int64_t scratch_bytes(CudaStream, const LayerNormBackward<T>& args) {
  const int64_t sums = block_count(args.sum.rows(), kLayerNormSumRows) * args.sums_columns();
  return sums * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
