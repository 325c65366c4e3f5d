// One thread four elements.
//
// As in the CPU's kernel both forms of GELU are max(x, 0) - t s(-t) with t = |x|, and their derivative is g(t) for
// x <= 0 and 1 - g(t) for x > 0: the terms that fall to zero are computed as such, which keeps the tail of negative x
// exact. Beyond kEnd they are zero; NaN passes through every comparison below.
#include "kernels/activation.h"

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_activation {

constexpr float kEnd = 16;
constexpr float kRootHalf = 0.70710678f;          // sqrt(1 / 2)
constexpr float kInverseRootTwoPi = 0.39894228f;  // 1 / sqrt(2 pi)
constexpr float kTwoRootTwoOverPi = 1.5957691f;   // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

__device__ inline float clamped_magnitude(float x) {
  const float t = fabsf(x);
  return t > kEnd ? kEnd : t;
}
// max(x, 0), but NaN for NaN.
__device__ inline float positive_part(float x) {
  return x < 0 ? 0.0f : x;
}

struct GeluErf {
  static __device__ float value(float x) {
    const float t = clamped_magnitude(x);
    return positive_part(x) - 0.5f * t * erfcf(t * kRootHalf);
  }
  static __device__ float derivative(float x) {
    const float t = clamped_magnitude(x);
    const float g = 0.5f * erfcf(t * kRootHalf) - t * kInverseRootTwoPi * expf(-0.5f * t * t);
    return x > 0 ? 1 - g : g;
  }
};

struct GeluTanh {
  // (1 + tanh(-u)) / 2 at u = sqrt(2 / pi) (t + 0.044715 t^3).
  static __device__ float share(float t) { return 1 / (1 + expf(kTwoRootTwoOverPi * (t + kCubic * t * t * t))); }
  static __device__ float value(float x) {
    const float t = clamped_magnitude(x);
    return positive_part(x) - t * share(t);
  }
  static __device__ float derivative(float x) {
    const float t = clamped_magnitude(x), s = share(t);
    const float g = s - t * s * (1 - s) * kTwoRootTwoOverPi * (1 + 3 * kCubic * t * t);
    return x > 0 ? 1 - g : g;
  }
};

struct Relu {
  static __device__ float value(float x) { return positive_part(x); }
  static __device__ float derivative(float x) { return x > 0 ? 1.0f : 0.0f; }
};

template <class Function, class T>
struct ForwardFours {
  const T* x;
  T* y;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    cuda::Four values = lanes.load(x + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = Function::value(values.at[k]);
    lanes.store(values, y + i);
  }
};

template <class Function, class T>
struct BackwardFours {
  const T *dy, *x;
  T* dx;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    const cuda::Four gradient = lanes.load(dy + i), values = lanes.load(x + i);
    cuda::Four sum = lanes.load(dx + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.at[k] += gradient.at[k] * Function::derivative(values.at[k]);
    lanes.store(sum, dx + i);
  }
};

template <class Function, class T>
void start(CudaStream stream, const ActivationForward<T>& args) {
  cuda::start_fours(stream, "activation_forward", args.x.size(), cuda::fours_aligned(args.x.data(), args.y.data()),
                    ForwardFours<Function, T>{args.x.data(), args.y.data()});
}

template <class Function, class T>
void start(CudaStream stream, const ActivationBackward<T>& args) {
  cuda::start_fours(stream, "activation_backward", args.x.size(),
                    cuda::fours_aligned(args.dy.data(), args.x.data(), args.dx.data()),
                    BackwardFours<Function, T>{args.dy.data(), args.x.data(), args.dx.data()});
}

template <class Arguments>
void launch_any(CudaStream stream, const Arguments& args) {
  switch (args.activation) {
    case Activation::kGeluErf:
      return start<GeluErf>(stream, args);
    case Activation::kGeluTanh:
      return start<GeluTanh>(stream, args);
    case Activation::kRelu:
      return start<Relu>(stream, args);
  }
}

}  // namespace cuda_activation

void launch(CudaStream stream, const ActivationForward<float>& args) {
  cuda_activation::launch_any(stream, args);
}

void launch(CudaStream stream, const ActivationForward<Bf16>& args) {
  cuda_activation::launch_any(stream, args);
}

void launch(CudaStream stream, const ActivationBackward<float>& args) {
  cuda_activation::launch_any(stream, args);
}

void launch(CudaStream stream, const ActivationBackward<Bf16>& args) {
  cuda_activation::launch_any(stream, args);
}

}  // namespace itemloom
