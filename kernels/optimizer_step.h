// One optimizer step over a flat range of parameters, gradient zeroed in the same pass, and the decision before it.
//
// What a step does hangs on its loss and gradient, so it is decided where they are: no host needs to know it before the
// next step is told. g below is the decision's gradient_scale * gradient. A step that is skipped only zeroes the
// gradient, whatever is in it. weight_decay is decoupled (AdamW, Loshchilov and Hutter 2019, algorithm 2) in Adam when
// `decoupled`, else it is added to g (L2); SGD and RMSprop add it to g. One launch steps many parameters, not all of
// which decay: elements behind an odd number of decay_switches do, the others have no weight_decay. The switches are
// ascending multiples of 4; one at i stands before element i.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

struct StepDecision {
  double loss_sum = 0;            // over the masked rows of the whole batch
  double gradient_norm = 0;       // 2-norm of the gradient of the mean loss, before clipping
  int64_t steps = 0;              // t: steps taken until now, this one too unless it is skipped
  float gradient_scale = 0;       // 1 / masked rows, times the clipping factor
  float inverse_correction1 = 0;  // 1 / (1 - beta1^t)
  float inverse_correction2 = 0;  // 1 / (1 - beta2^t)
  bool skipped = false;           // the loss or the norm is not finite; then the three floats are undefined
};

// loss_sum = the tree sum (core/communicator.h) of losses; gradient_norm = sqrt(sum of square_sums) * mean, summed in
// a fixed order; clipping scales a gradient whose norm is greater than clip_norm down to it.
struct DecideStep {
  Vector<double> losses;             // at least one; summed in place, undefined afterwards
  Vector<const double> square_sums;  // of the whole gradient
  double mean;                       // 1 / masked rows of the whole batch
  double clip_norm;                  // 0: never
  double beta1;
  double beta2;
  Vector<StepDecision> decision;  // (1): steps is updated, the rest overwritten
};
void launch(CpuStream stream, const DecideStep& args);
void launch(CudaStream stream, const DecideStep& args);

// sum += loss
struct AddLoss {
  Vector<const double> loss;  // (1)
  Vector<double> sum;         // (1), added into
};
void launch(CpuStream stream, const AddLoss& args);
void launch(CudaStream stream, const AddLoss& args);

// Kingma and Ba 2015, algorithm 1.
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   value -= learning_rate * (m * inverse_correction1 / (sqrt(v * inverse_correction2) + epsilon)
//                             + [decoupled] weight_decay * value)
struct AdamStep {
  Vector<float> value;          // updated
  Vector<float> gradient;       // read, then zero
  Vector<float> first_moment;   // updated
  Vector<float> second_moment;  // updated
  Vector<const StepDecision> decision;
  float learning_rate;
  float beta1;
  float beta2;
  float epsilon;
  float weight_decay;
  Vector<const int64_t> decay_switches;
  bool decoupled;
};
void launch(CpuStream stream, const AdamStep& args);
void launch(CudaStream stream, const AdamStep& args);

// velocity = momentum * velocity + g;  value -= learning_rate * velocity
struct SgdStep {
  Vector<float> value;
  Vector<float> gradient;
  Vector<float> velocity;  // none() where momentum is 0
  Vector<const StepDecision> decision;
  float learning_rate;
  float momentum;
  float weight_decay;
  Vector<const int64_t> decay_switches;
};
void launch(CpuStream stream, const SgdStep& args);
void launch(CudaStream stream, const SgdStep& args);

// Tieleman and Hinton 2012, lecture 6.5: square = decay * square + (1 - decay) g^2;
// velocity = momentum * velocity + g / (sqrt(square) + epsilon);  value -= learning_rate * velocity
struct RmspropStep {
  Vector<float> value;
  Vector<float> gradient;
  Vector<float> square;
  Vector<float> velocity;  // none() where momentum is 0
  Vector<const StepDecision> decision;
  float learning_rate;
  float decay;
  float momentum;
  float epsilon;
  float weight_decay;
  Vector<const int64_t> decay_switches;
};
void launch(CpuStream stream, const RmspropStep& args);
void launch(CudaStream stream, const RmspropStep& args);

}  // namespace itemloom
