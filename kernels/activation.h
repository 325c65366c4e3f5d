// GELU (Hendrycks and Gimpel 2016), elementwise: x * Phi(x) with the exact erf (kErf), or its tanh approximation
// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (kTanh); and ReLU, max(x, 0) (derivative 0 at 0).
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

enum class Activation { kGeluErf, kGeluTanh, kRelu };

struct ActivationForward {
  Activation activation;
  Vector<const float> x;
  Vector<float> y;  // as x, overwritten
};
void launch(CpuStream stream, const ActivationForward& args);
void launch(CudaStream stream, const ActivationForward& args);

struct ActivationBackward {
  Activation activation;
  Vector<const float> dy;
  Vector<const float> x;
  Vector<float> dx;  // added into
};
void launch(CpuStream stream, const ActivationBackward& args);
void launch(CudaStream stream, const ActivationBackward& args);

}  // namespace itemloom
