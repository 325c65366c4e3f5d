// GELU (Hendrycks and Gimpel 2016), elementwise: x * Phi(x) with the exact erf (kErf), or its tanh approximation
// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (kTanh); and ReLU, max(x, 0) (derivative 0 at 0).
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/view.h"

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
  Vector<const T> dy;
  Vector<const T> x;
  Vector<T> dx;  // added into
};
void launch(CpuStream stream, const ActivationBackward<float>& args);
void launch(CudaStream stream, const ActivationBackward<float>& args);
void launch(CudaStream stream, const ActivationBackward<Bf16>& args);

}  // namespace itemloom
