// A step: one thread four elements: everything it needs of them is read once and written once. Whether they decay it
// looks up among the switches, a few dozen numbers that stay in the cache.
// The decision: one block of threads; each sums every kDecideThreads-th sum of squares, then they join in a tree.
#include "kernels/optimizer_step.h"

#include <cmath>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_optimizer_step {

constexpr int kDecideThreads = 256;

__device__ float inverse_correction(double beta, int64_t steps) {
  return 1 / static_cast<float>(1 - pow(beta, static_cast<double>(steps)));
}

__global__ void decide(DecideStep args) {
  __shared__ double shared[kDecideThreads / cuda::kWarp];
  double squares = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < args.square_sums.size(); i += kDecideThreads) squares += args.square_sums[i];
  squares = cuda::block_sum<kDecideThreads>(squares, shared);
  const Vector<double> losses = args.losses;
  for (int64_t distance = 1; distance < losses.size(); distance *= 2) {
    for (int64_t i = threadIdx.x * 2 * distance; i + distance < losses.size(); i += kDecideThreads * 2 * distance) {
      losses[i] += losses[i + distance];
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  StepDecision& decision = args.decision[0];
  const double norm = sqrt(squares) * args.mean;
  decision.loss_sum = losses[0];
  decision.gradient_norm = norm;
  decision.skipped = !isfinite(losses[0]) || !isfinite(norm);
  if (decision.skipped) return;
  const double clipping = args.clip_norm > 0 && norm > args.clip_norm ? args.clip_norm / norm : 1;
  decision.gradient_scale = static_cast<float>(args.mean * clipping);
  const int64_t steps = ++decision.steps;
  decision.inverse_correction1 = inverse_correction(args.beta1, steps);
  decision.inverse_correction2 = inverse_correction(args.beta2, steps);
}

__global__ void add_loss(const double* loss, double* sum) {
  *sum += *loss;
}

struct WeightDecay {
  float rate;
  Vector<const int64_t> switches;

  // Of the four elements from i on.
  __device__ float at(int64_t i) const {
    int64_t begin = 0, end = switches.size();
    while (begin < end) {
      const int64_t middle = (begin + end) / 2;
      if (switches[middle] <= i) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin % 2 == 1 ? rate : 0.0f;
  }
};

struct AdamFours {
  float *value, *gradient, *first_moment, *second_moment;
  const StepDecision* decision;
  float learning_rate, beta1, beta2, epsilon;
  WeightDecay weight_decay;
  bool decoupled;

  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    if (decision->skipped) return lanes.store(cuda::Four{}, gradient + i);
    const float gradient_scale = decision->gradient_scale;
    const cuda::Four gradients = lanes.load(gradient + i);
    const float inverse_correction1 = decision->inverse_correction1;
    const float inverse_correction2 = decision->inverse_correction2;
    cuda::Four values = lanes.load(value + i), m = lanes.load(first_moment + i), v = lanes.load(second_moment + i);
    const float decay = weight_decay.at(i), l2 = decoupled ? 0.0f : decay, decoupled_decay = decay - l2;
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

// Where the velocity is kept; null where there is no momentum, so that each step is all of it.
struct Velocities {
  float* velocity;
  float momentum;

  // After a step of size `step`, where it is kept updated, too.
  template <class Lanes>
  __device__ cuda::Four next(int64_t i, cuda::Four step, Lanes lanes) const {
    if (velocity == nullptr) return step;
    const cuda::Four before = lanes.load(velocity + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) step.at[k] = momentum * before.at[k] + step.at[k];
    lanes.store(step, velocity + i);
    return step;
  }
};

struct SgdFours {
  float *value, *gradient;
  Velocities velocities;
  const StepDecision* decision;
  float learning_rate;
  WeightDecay weight_decay;

  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    if (decision->skipped) return lanes.store(cuda::Four{}, gradient + i);
    const float gradient_scale = decision->gradient_scale;
    const cuda::Four gradients = lanes.load(gradient + i);
    cuda::Four values = lanes.load(value + i), steps;
    const float l2 = weight_decay.at(i);
#pragma unroll
    for (int k = 0; k < 4; ++k) steps.at[k] = gradient_scale * gradients.at[k] + l2 * values.at[k];
    steps = velocities.next(i, steps, lanes);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] -= learning_rate * steps.at[k];
    lanes.store(values, value + i);
    lanes.store(cuda::Four{}, gradient + i);
  }
};

struct RmspropFours {
  float *value, *gradient, *square;
  Velocities velocities;
  const StepDecision* decision;
  float learning_rate, decay, epsilon;
  WeightDecay weight_decay;

  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    if (decision->skipped) return lanes.store(cuda::Four{}, gradient + i);
    const float gradient_scale = decision->gradient_scale;
    const cuda::Four gradients = lanes.load(gradient + i);
    cuda::Four values = lanes.load(value + i), squares = lanes.load(square + i), steps;
    const float l2 = weight_decay.at(i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float g = gradient_scale * gradients.at[k] + l2 * values.at[k];
      squares.at[k] = decay * squares.at[k] + (1 - decay) * (g * g);
      steps.at[k] = g / (sqrtf(squares.at[k]) + epsilon);
    }
    steps = velocities.next(i, steps, lanes);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] -= learning_rate * steps.at[k];
    lanes.store(values, value + i);
    lanes.store(squares, square + i);
    lanes.store(cuda::Four{}, gradient + i);
  }
};

}  // namespace cuda_optimizer_step

void launch(CudaStream stream, const DecideStep& args) {
  cuda::start(stream, "decide_step", cuda_optimizer_step::decide, 1, cuda_optimizer_step::kDecideThreads, 0, args);
}

void launch(CudaStream stream, const AddLoss& args) {
  cuda::start(stream, "add_loss", cuda_optimizer_step::add_loss, 1, 1, 0, args.loss.data(), args.sum.data());
}

void launch(CudaStream stream, const AdamStep& args) {
  const cuda_optimizer_step::AdamFours body{.value = args.value.data(),
                                            .gradient = args.gradient.data(),
                                            .first_moment = args.first_moment.data(),
                                            .second_moment = args.second_moment.data(),
                                            .decision = args.decision.data(),
                                            .learning_rate = args.learning_rate,
                                            .beta1 = args.beta1,
                                            .beta2 = args.beta2,
                                            .epsilon = args.epsilon,
                                            .weight_decay = {args.weight_decay, args.decay_switches},
                                            .decoupled = args.decoupled};
  cuda::start_fours(stream, "adam_step", args.value.size(),
                    cuda::fours_aligned(body.value, body.gradient, body.first_moment, body.second_moment), body);
}

void launch(CudaStream stream, const SgdStep& args) {
  const cuda_optimizer_step::SgdFours body{.value = args.value.data(),
                                           .gradient = args.gradient.data(),
                                           .velocities = {args.velocity.data(), args.momentum},
                                           .decision = args.decision.data(),
                                           .learning_rate = args.learning_rate,
                                           .weight_decay = {args.weight_decay, args.decay_switches}};
  cuda::start_fours(stream, "sgd_step", args.value.size(),
                    cuda::fours_aligned(body.value, body.gradient, args.velocity.data()), body);
}

void launch(CudaStream stream, const RmspropStep& args) {
  const cuda_optimizer_step::RmspropFours body{.value = args.value.data(),
                                               .gradient = args.gradient.data(),
                                               .square = args.square.data(),
                                               .velocities = {args.velocity.data(), args.momentum},
                                               .decision = args.decision.data(),
                                               .learning_rate = args.learning_rate,
                                               .decay = args.decay,
                                               .epsilon = args.epsilon,
                                               .weight_decay = {args.weight_decay, args.decay_switches}};
  cuda::start_fours(stream, "rmsprop_step", args.value.size(),
                    cuda::fours_aligned(body.value, body.gradient, body.square, args.velocity.data()), body);
}

}  // namespace itemloom
