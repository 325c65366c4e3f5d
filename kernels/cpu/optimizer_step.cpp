#include "kernels/optimizer_step.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer_step.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "kernels/cpu/lanes-inl.h"
#include "kernels/elementwise.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// Of the elements of `part`, which all decay at this rate.
void adam_step(const AdamStep& args, FlatRange part, float weight_decay) {
  const StepDecision decision = args.decision[0];
  parallel_lanes(part.size(), [=, &args](int64_t offset, auto lanes) HWY_ATTR {
    const Floats d;
    const int64_t i = part.begin + offset;
    const FloatVector value = lanes.load(args.value.data() + i);
    FloatVector g = hn::Mul(lanes.load(args.gradient.data() + i), hn::Set(d, decision.gradient_scale));
    if (!args.decoupled) g = hn::MulAdd(value, hn::Set(d, weight_decay), g);
    const FloatVector m = hn::MulAdd(lanes.load(args.first_moment.data() + i), hn::Set(d, args.beta1),
                                     hn::Mul(g, hn::Set(d, 1 - args.beta1)));
    const FloatVector v = hn::MulAdd(lanes.load(args.second_moment.data() + i), hn::Set(d, args.beta2),
                                     hn::Mul(hn::Mul(g, g), hn::Set(d, 1 - args.beta2)));
    const FloatVector root = hn::Sqrt(hn::Mul(v, hn::Set(d, decision.inverse_correction2)));
    FloatVector step =
        hn::Div(hn::Mul(m, hn::Set(d, decision.inverse_correction1)), hn::Add(root, hn::Set(d, args.epsilon)));
    if (args.decoupled) step = hn::MulAdd(value, hn::Set(d, weight_decay), step);
    lanes.store(hn::NegMulAdd(step, hn::Set(d, args.learning_rate), value), args.value.data() + i);
    lanes.store(m, args.first_moment.data() + i);
    lanes.store(v, args.second_moment.data() + i);
    lanes.store(hn::Zero(d), args.gradient.data() + i);
  });
}

// The velocity after a step of size `step`, where there is one updated, too.
template <class Step, class Lanes>
HWY_INLINE FloatVector next_velocity(const Step& args, int64_t i, FloatVector step, Lanes lanes) {
  if (!args.velocity) return step;
  const FloatVector velocity = hn::MulAdd(lanes.load(args.velocity.data() + i), hn::Set(Floats(), args.momentum), step);
  lanes.store(velocity, args.velocity.data() + i);
  return velocity;
}

void sgd_step(const SgdStep& args, FlatRange part, float weight_decay) {
  const StepDecision decision = args.decision[0];
  parallel_lanes(part.size(), [=, &args](int64_t offset, auto lanes) HWY_ATTR {
    const Floats d;
    const int64_t i = part.begin + offset;
    const FloatVector value = lanes.load(args.value.data() + i);
    const FloatVector g =
        hn::MulAdd(value, hn::Set(d, weight_decay),
                   hn::Mul(lanes.load(args.gradient.data() + i), hn::Set(d, decision.gradient_scale)));
    const FloatVector velocity = next_velocity(args, i, g, lanes);
    lanes.store(hn::NegMulAdd(velocity, hn::Set(d, args.learning_rate), value), args.value.data() + i);
    lanes.store(hn::Zero(d), args.gradient.data() + i);
  });
}

void rmsprop_step(const RmspropStep& args, FlatRange part, float weight_decay) {
  const StepDecision decision = args.decision[0];
  parallel_lanes(part.size(), [=, &args](int64_t offset, auto lanes) HWY_ATTR {
    const Floats d;
    const int64_t i = part.begin + offset;
    const FloatVector value = lanes.load(args.value.data() + i);
    const FloatVector g =
        hn::MulAdd(value, hn::Set(d, weight_decay),
                   hn::Mul(lanes.load(args.gradient.data() + i), hn::Set(d, decision.gradient_scale)));
    const FloatVector square = hn::MulAdd(lanes.load(args.square.data() + i), hn::Set(d, args.decay),
                                          hn::Mul(hn::Mul(g, g), hn::Set(d, 1 - args.decay)));
    const FloatVector step = hn::Div(g, hn::Add(hn::Sqrt(square), hn::Set(d, args.epsilon)));
    const FloatVector velocity = next_velocity(args, i, step, lanes);
    lanes.store(hn::NegMulAdd(velocity, hn::Set(d, args.learning_rate), value), args.value.data() + i);
    lanes.store(square, args.square.data() + i);
    lanes.store(hn::Zero(d), args.gradient.data() + i);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

namespace {

// values[0] = the tree sum.
void tree_sum(Vector<double> values) {
  for (int64_t distance = 1; distance < values.size(); distance *= 2) {
    for (int64_t i = 0; i + distance < values.size(); i += 2 * distance) values[i] += values[i + distance];
  }
}

float inverse_correction(double beta, int64_t steps) {
  return 1 / static_cast<float>(1 - std::pow(beta, static_cast<double>(steps)));
}

// Takes a step that is not skipped part by part, from one switch of the decay to the next.
template <class Step, class Body>
void step_parts(CpuStream stream, const Step& args, const Body& step) {
  if (args.decision[0].skipped) return launch(stream, Fill{.value = 0, .y = args.gradient});
  const Vector<const int64_t> switches = args.decay_switches;
  int64_t begin = 0;
  for (int64_t part = 0; part <= switches.size(); ++part) {
    const int64_t end = part < switches.size() ? switches[part] : args.value.size();
    step(FlatRange{begin, end}, part % 2 == 1 ? args.weight_decay : 0.0f);
    begin = end;
  }
}

}  // namespace

void launch(CpuStream, const DecideStep& args) {
  StepDecision& decision = args.decision[0];
  tree_sum(args.losses);
  double squares = 0;
  for (const double block : args.square_sums) squares += block;
  decision.loss_sum = args.losses[0];
  decision.gradient_norm = std::sqrt(squares) * args.mean;
  decision.skipped = !std::isfinite(decision.loss_sum) || !std::isfinite(decision.gradient_norm);
  if (decision.skipped) return;
  double scale = args.mean;
  if (args.clip_norm > 0 && decision.gradient_norm > args.clip_norm) scale *= args.clip_norm / decision.gradient_norm;
  decision.gradient_scale = static_cast<float>(scale);
  ++decision.steps;
  decision.inverse_correction1 = inverse_correction(args.beta1, decision.steps);
  decision.inverse_correction2 = inverse_correction(args.beta2, decision.steps);
}

void launch(CpuStream, const AddLoss& args) {
  args.sum[0] += args.loss[0];
}

HWY_EXPORT(adam_step);
HWY_EXPORT(sgd_step);
HWY_EXPORT(rmsprop_step);

void launch(CpuStream stream, const AdamStep& args) {
  step_parts(stream, args, [&](FlatRange part, float weight_decay) {
    HWY_DYNAMIC_DISPATCH(adam_step)(args, part, weight_decay);
  });
}

void launch(CpuStream stream, const SgdStep& args) {
  step_parts(stream, args, [&](FlatRange part, float weight_decay) {
    HWY_DYNAMIC_DISPATCH(sgd_step)(args, part, weight_decay);
  });
}

void launch(CpuStream stream, const RmspropStep& args) {
  step_parts(stream, args, [&](FlatRange part, float weight_decay) {
    HWY_DYNAMIC_DISPATCH(rmsprop_step)(args, part, weight_decay);
  });
}

}  // namespace itemloom
#endif
