// One thread four parameters: everything a step needs of them is read once and written once.
#include "kernels/optimizer_step.h"

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_optimizer_step {

struct AdamFours {
  float *value, *gradient, *first_moment, *second_moment;
  float gradient_scale, learning_rate, beta1, beta2, epsilon;
  float l2, decoupled_decay;  // one of them is zero
  float inverse_correction1, inverse_correction2;

  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    const cuda::Four gradients = lanes.load(gradient + i);
    cuda::Four values = lanes.load(value + i), m = lanes.load(first_moment + i), v = lanes.load(second_moment + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float g = gradient_scale * gradients.at[k] + l2 * values.at[k];
      m.at[k] = beta1 * m.at[k] + (1 - beta1) * g;
      v.at[k] = beta2 * v.at[k] + (1 - beta2) * (g * g);
      const float step = m.at[k] * inverse_correction1 / (sqrtf(v.at[k] * inverse_correction2) + epsilon);
      values.at[k] -= learning_rate * (step + decoupled_decay * values.at[k]);
    }
    lanes.store(values, value + i);
    lanes.store(m, first_moment + i);
    lanes.store(v, second_moment + i);
    lanes.store(cuda::Four{}, gradient + i);
  }
};

struct SgdFours {
  float *value, *gradient, *velocity;
  float gradient_scale, learning_rate, momentum, weight_decay;

  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    const cuda::Four gradients = lanes.load(gradient + i);
    cuda::Four values = lanes.load(value + i), velocities = lanes.load(velocity + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float g = gradient_scale * gradients.at[k] + weight_decay * values.at[k];
      velocities.at[k] = momentum * velocities.at[k] + g;
      values.at[k] -= learning_rate * velocities.at[k];
    }
    lanes.store(values, value + i);
    lanes.store(velocities, velocity + i);
    lanes.store(cuda::Four{}, gradient + i);
  }
};

struct RmspropFours {
  float *value, *gradient, *square, *velocity;
  float gradient_scale, learning_rate, decay, momentum, epsilon, weight_decay;

  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    const cuda::Four gradients = lanes.load(gradient + i);
    cuda::Four values = lanes.load(value + i), squares = lanes.load(square + i), velocities = lanes.load(velocity + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float g = gradient_scale * gradients.at[k] + weight_decay * values.at[k];
      squares.at[k] = decay * squares.at[k] + (1 - decay) * (g * g);
      velocities.at[k] = momentum * velocities.at[k] + g / (sqrtf(squares.at[k]) + epsilon);
      values.at[k] -= learning_rate * velocities.at[k];
    }
    lanes.store(values, value + i);
    lanes.store(squares, square + i);
    lanes.store(velocities, velocity + i);
    lanes.store(cuda::Four{}, gradient + i);
  }
};

}  // namespace cuda_optimizer_step

void launch(CudaStream stream, const AdamStep& args) {
  const cuda_optimizer_step::AdamFours body{.value = args.value.data(),
                                            .gradient = args.gradient.data(),
                                            .first_moment = args.first_moment.data(),
                                            .second_moment = args.second_moment.data(),
                                            .gradient_scale = args.gradient_scale,
                                            .learning_rate = args.learning_rate,
                                            .beta1 = args.beta1,
                                            .beta2 = args.beta2,
                                            .epsilon = args.epsilon,
                                            .l2 = args.decoupled ? 0.0f : args.weight_decay,
                                            .decoupled_decay = args.decoupled ? args.weight_decay : 0.0f,
                                            .inverse_correction1 = 1 / args.bias_correction1,
                                            .inverse_correction2 = 1 / args.bias_correction2};
  cuda::start_fours(stream, "adam_step", args.value.size(),
                    cuda::fours_aligned(body.value, body.gradient, body.first_moment, body.second_moment), body);
}

void launch(CudaStream stream, const SgdStep& args) {
  const cuda_optimizer_step::SgdFours body{.value = args.value.data(),
                                           .gradient = args.gradient.data(),
                                           .velocity = args.velocity.data(),
                                           .gradient_scale = args.gradient_scale,
                                           .learning_rate = args.learning_rate,
                                           .momentum = args.momentum,
                                           .weight_decay = args.weight_decay};
  cuda::start_fours(stream, "sgd_step", args.value.size(),
                    cuda::fours_aligned(body.value, body.gradient, body.velocity), body);
}

void launch(CudaStream stream, const RmspropStep& args) {
  const cuda_optimizer_step::RmspropFours body{.value = args.value.data(),
                                               .gradient = args.gradient.data(),
                                               .square = args.square.data(),
                                               .velocity = args.velocity.data(),
                                               .gradient_scale = args.gradient_scale,
                                               .learning_rate = args.learning_rate,
                                               .decay = args.decay,
                                               .momentum = args.momentum,
                                               .epsilon = args.epsilon,
                                               .weight_decay = args.weight_decay};
  cuda::start_fours(stream, "rmsprop_step", args.value.size(),
                    cuda::fours_aligned(body.value, body.gradient, body.square, body.velocity), body);
}

}  // namespace itemloom
