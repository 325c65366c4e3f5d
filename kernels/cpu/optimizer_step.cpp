#include "kernels/optimizer_step.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer_step.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

void adam_step(CpuStream, const AdamStep& args) {
  parallel_lanes(args.value.size(), [&args](int64_t i, auto lanes) HWY_ATTR {
    const Floats d;
    const FloatVector value = lanes.load(args.value.data() + i);
    FloatVector g = hn::Mul(lanes.load(args.gradient.data() + i), hn::Set(d, args.gradient_scale));
    if (!args.decoupled) g = hn::MulAdd(value, hn::Set(d, args.weight_decay), g);
    const FloatVector m = hn::MulAdd(lanes.load(args.first_moment.data() + i), hn::Set(d, args.beta1),
                                     hn::Mul(g, hn::Set(d, 1 - args.beta1)));
    const FloatVector v = hn::MulAdd(lanes.load(args.second_moment.data() + i), hn::Set(d, args.beta2),
                                     hn::Mul(hn::Mul(g, g), hn::Set(d, 1 - args.beta2)));
    const FloatVector root = hn::Sqrt(hn::Mul(v, hn::Set(d, 1 / args.bias_correction2)));
    FloatVector step =
        hn::Div(hn::Mul(m, hn::Set(d, 1 / args.bias_correction1)), hn::Add(root, hn::Set(d, args.epsilon)));
    if (args.decoupled) step = hn::MulAdd(value, hn::Set(d, args.weight_decay), step);
    lanes.store(hn::NegMulAdd(step, hn::Set(d, args.learning_rate), value), args.value.data() + i);
    lanes.store(m, args.first_moment.data() + i);
    lanes.store(v, args.second_moment.data() + i);
    lanes.store(hn::Zero(d), args.gradient.data() + i);
  });
}

void sgd_step(CpuStream, const SgdStep& args) {
  parallel_lanes(args.value.size(), [&args](int64_t i, auto lanes) HWY_ATTR {
    const Floats d;
    const FloatVector value = lanes.load(args.value.data() + i);
    const FloatVector g = hn::MulAdd(value, hn::Set(d, args.weight_decay),
                                     hn::Mul(lanes.load(args.gradient.data() + i), hn::Set(d, args.gradient_scale)));
    const FloatVector velocity = hn::MulAdd(lanes.load(args.velocity.data() + i), hn::Set(d, args.momentum), g);
    lanes.store(hn::NegMulAdd(velocity, hn::Set(d, args.learning_rate), value), args.value.data() + i);
    lanes.store(velocity, args.velocity.data() + i);
    lanes.store(hn::Zero(d), args.gradient.data() + i);
  });
}

void rmsprop_step(CpuStream, const RmspropStep& args) {
  parallel_lanes(args.value.size(), [&args](int64_t i, auto lanes) HWY_ATTR {
    const Floats d;
    const FloatVector value = lanes.load(args.value.data() + i);
    const FloatVector g = hn::MulAdd(value, hn::Set(d, args.weight_decay),
                                     hn::Mul(lanes.load(args.gradient.data() + i), hn::Set(d, args.gradient_scale)));
    const FloatVector square = hn::MulAdd(lanes.load(args.square.data() + i), hn::Set(d, args.decay),
                                          hn::Mul(hn::Mul(g, g), hn::Set(d, 1 - args.decay)));
    const FloatVector step = hn::Div(g, hn::Add(hn::Sqrt(square), hn::Set(d, args.epsilon)));
    const FloatVector velocity = hn::MulAdd(lanes.load(args.velocity.data() + i), hn::Set(d, args.momentum), step);
    lanes.store(hn::NegMulAdd(velocity, hn::Set(d, args.learning_rate), value), args.value.data() + i);
    lanes.store(square, args.square.data() + i);
    lanes.store(velocity, args.velocity.data() + i);
    lanes.store(hn::Zero(d), args.gradient.data() + i);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(adam_step);
HWY_EXPORT(sgd_step);
HWY_EXPORT(rmsprop_step);

void launch(CpuStream stream, const AdamStep& args) {
  HWY_DYNAMIC_DISPATCH(adam_step)(stream, args);
}

void launch(CpuStream stream, const SgdStep& args) {
  HWY_DYNAMIC_DISPATCH(sgd_step)(stream, args);
}

void launch(CpuStream stream, const RmspropStep& args) {
  HWY_DYNAMIC_DISPATCH(rmsprop_step)(stream, args);
}

}  // namespace itemloom
#endif
