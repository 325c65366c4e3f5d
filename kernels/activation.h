// GELU (Hendrycks and Gimpel 2016), elementwise: x * Phi(x) with the exact erf (kErf), or its tanh approximation
// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (kTanh); and ReLU, max(x, 0) (derivative 0 at 0).
//
// x is a product with a bias. Backward finds the gradient of the product and that of the bias in one pass, and in the
// memory of dy: 3 passes over (N, C), where a gradient of its own that starts at zero and column sums afterwards
// take 6. Column sums run over fixed row blocks and are added in block order.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

enum class Activation { kGeluErf, kGeluTanh, kRelu };

template <class T>
struct ActivationForward {
  Activation activation;
  Vector<const T> x;
  Vector<T> y;  // as x, overwritten
};
void launch(CpuStream stream, const ActivationForward<float>& args);
void launch(CudaStream stream, const ActivationForward<float>& args);
void launch(CudaStream stream, const ActivationForward<Bf16>& args);

template <class T>
struct ActivationBackward {
  Activation activation;
  Matrix<const T> dy;   // (N, C)
  Matrix<const T> x;    // (N, C)
  Matrix<T> dx;         // (N, C), overwritten; may be dy itself
  Vector<float> dbias;  // (C), added into: the sum over the rows of dx
};
void launch(CpuStream stream, const ActivationBackward<float>& args);
int64_t scratch_bytes(CpuStream stream, const ActivationBackward<float>& args);
void launch(CudaStream stream, const ActivationBackward<float>& args);
void launch(CudaStream stream, const ActivationBackward<Bf16>& args);

// Rows whose gradients of the bias make one partial row on CUDA.
inline constexpr int kActivationSumRows = 32;
template <class T>
int64_t scratch_bytes(CudaStream, const ActivationBackward<T>& args) {
  return block_count(args.x.rows(), kActivationSumRows) * args.x.columns() * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
