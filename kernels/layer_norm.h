// Layer normalisation over the last axis (Ba et al. 2016), two-pass variance.
//
//   mean_r = 1/C sum_c x[r][c],  inverse_std_r = 1 / sqrt(1/C sum_c (x[r][c] - mean_r)^2 + epsilon)
//   y[r][c] = (x[r][c] - mean_r) * inverse_std_r * gamma[c] + beta[c]
//
// Backward adds into dx, dgamma and dbeta. Column sums run over fixed row blocks and are added in block order.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

template <class T>
struct LayerNormForward {
  Matrix<const T> x;          // (N, C)
  Vector<const float> gamma;  // (C)
  Vector<const float> beta;   // (C)
  float epsilon;
  Matrix<T> y;                // (N, C), overwritten
  Vector<float> mean;         // (N), overwritten, kept for backward
  Vector<float> inverse_std;  // (N), overwritten, kept for backward
};
void launch(CpuStream stream, const LayerNormForward<float>& args);
void launch(CudaStream stream, const LayerNormForward<float>& args);
void launch(CudaStream stream, const LayerNormForward<Bf16>& args);

template <class T>
struct LayerNormBackward {
  Matrix<const T> dy;
  Matrix<const T> x;
  Vector<const float> gamma;
  Vector<const float> mean;
  Vector<const float> inverse_std;
  Matrix<T> dx;          // (N, C), added into
  Vector<float> dgamma;  // (C), added into
  Vector<float> dbeta;   // (C), added into
};
void launch(CpuStream stream, const LayerNormBackward<float>& args);
int64_t scratch_bytes(CpuStream stream, const LayerNormBackward<float>& args);
void launch(CudaStream stream, const LayerNormBackward<float>& args);
void launch(CudaStream stream, const LayerNormBackward<Bf16>& args);

// Rows whose gradients of gamma and beta make one partial row on CUDA.
inline constexpr int kLayerNormSumRows = 16;
template <class T>
int64_t scratch_bytes(CudaStream, const LayerNormBackward<T>& args) {
  const int64_t sums = block_count(args.x.rows(), kLayerNormSumRows) * 2 * args.x.columns();
  return sums * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
