#include "kernels/activation.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activation.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// y = function(x)
template <class Function>
void apply(const ActivationForward& args, Function function) {
  parallel_lanes(args.x.size(), [=, x = args.x.data(), y = args.y.data()](int64_t i, auto lanes)
                                    HWY_ATTR { lanes.store(function(lanes.load(x + i)), y + i); });
}

// dx += dy * derivative(x)
template <class Derivative>
void apply_backward(const ActivationBackward& args, Derivative derivative) {
  parallel_lanes(
      args.x.size(), [=, dy = args.dy.data(), x = args.x.data(), dx = args.dx.data()](int64_t i, auto lanes) HWY_ATTR {
        lanes.store(hn::MulAdd(lanes.load(dy + i), derivative(lanes.load(x + i)), lanes.load(dx + i)), dx + i);
      });
}

void activation_forward(CpuStream, const ActivationForward& args) {
  const Floats d;
  switch (args.activation) {
    case Activation::kGeluErf:
      return apply(args, [=](FloatVector x) HWY_ATTR { return gelu_erf(d, x); });
    case Activation::kGeluTanh:
      return apply(args, [=](FloatVector x) HWY_ATTR { return gelu_tanh(d, x); });
    case Activation::kRelu:
      // Written so that NaN stays NaN.
      return apply(args, [=](FloatVector x) HWY_ATTR { return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x); });
  }
}

void activation_backward(CpuStream, const ActivationBackward& args) {
  const Floats d;
  switch (args.activation) {
    case Activation::kGeluErf:
      return apply_backward(args, [=](FloatVector x) HWY_ATTR { return gelu_erf_derivative(d, x); });
    case Activation::kGeluTanh:
      return apply_backward(args, [=](FloatVector x) HWY_ATTR { return gelu_tanh_derivative(d, x); });
    case Activation::kRelu:
      return apply_backward(
          args, [=](FloatVector x) HWY_ATTR { return hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), hn::Set(d, 1.0f)); });
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(activation_forward);
HWY_EXPORT(activation_backward);

void launch(CpuStream stream, const ActivationForward& args) {
  HWY_DYNAMIC_DISPATCH(activation_forward)(stream, args);
}

void launch(CpuStream stream, const ActivationBackward& args) {
  HWY_DYNAMIC_DISPATCH(activation_backward)(stream, args);
}

}  // namespace itemloom
#endif
