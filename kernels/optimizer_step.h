// One optimizer step over a flat range of parameters, gradient zeroed in the same pass.
//
// g below is gradient_scale * gradient (the scale holds 1 / masked rows and the clipping factor). weight_decay is
// decoupled (AdamW, Loshchilov and Hutter 2019, algorithm 2) in Adam when `decoupled`, else it is added to g
// (L2); SGD and RMSprop add it to g.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// Kingma and Ba 2015, algorithm 1; bias_correction1 = 1 - beta1^t, bias_correction2 = 1 - beta2^t.
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   value -= learning_rate * (m / bias_correction1 / (sqrt(v / bias_correction2) + epsilon) + [decoupled] weight_decay
//   * value)
struct AdamStep {
  Vector<float> value;          // updated
  Vector<float> gradient;       // read, then zero
  Vector<float> first_moment;   // updated
  Vector<float> second_moment;  // updated
  float gradient_scale;
  float learning_rate;
  float beta1;
  float beta2;
  float epsilon;
  float weight_decay;
  bool decoupled;
  float bias_correction1;
  float bias_correction2;
};
void launch(CpuStream stream, const AdamStep& args);
void launch(CudaStream stream, const AdamStep& args);

// velocity = momentum * velocity + g;  value -= learning_rate * velocity
struct SgdStep {
  Vector<float> value;
  Vector<float> gradient;
  Vector<float> velocity;
  float gradient_scale;
  float learning_rate;
  float momentum;
  float weight_decay;
};
void launch(CpuStream stream, const SgdStep& args);
void launch(CudaStream stream, const SgdStep& args);

// Tieleman and Hinton 2012, lecture 6.5: square = decay * square + (1 - decay) g^2;
// velocity = momentum * velocity + g / (sqrt(square) + epsilon);  value -= learning_rate * velocity
struct RmspropStep {
  Vector<float> value;
  Vector<float> gradient;
  Vector<float> square;
  Vector<float> velocity;
  float gradient_scale;
  float learning_rate;
  float decay;
  float momentum;
  float epsilon;
  float weight_decay;
};
void launch(CpuStream stream, const RmspropStep& args);
void launch(CudaStream stream, const RmspropStep& args);

}  // namespace itemloom
