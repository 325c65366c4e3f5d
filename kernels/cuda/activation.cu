// Forward: one thread four elements. Backward: a block of threads has kRows rows of kTile columns, a warp every eighth
// of these rows and a thread four columns; sums over the rows become a partial row a block.
//
// As in the CPU's kernel both forms of GELU are max(x, 0) - t s(-t) with t = |x|, and their derivative is g(t) for
// x <= 0 and 1 - g(t) for x > 0: the terms that fall to zero are computed as such, which keeps the tail of negative x
// exact. Beyond kEnd they are zero; NaN passes through every comparison below.
#include "kernels/activation.h"

#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/partials.cuh"

namespace itemloom {
namespace cuda_activation {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int64_t kRows = kActivationSumRows;
constexpr int kTile = 4 * cuda::kWarp;

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

template <bool kAligned, class Function, class T>
__global__ void find_gradients(ActivationBackward<T> args, float* partials) {
  // Written as fours: their elements one by one would be in the same bank for every eighth lane.
  __shared__ float4 warp_sums[kWarps][cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int64_t columns = args.x.columns(), c = int64_t{blockIdx.y} * kTile + 4 * lane;
  const int64_t begin = blockIdx.x * kRows, end = min(begin + kRows, args.x.rows());
  cuda::Four sums{};
  if (c < columns) {
    const auto add_rows = [&](auto lanes) {
#pragma unroll 2
      for (int64_t row = begin + warp; row < end; row += kWarps) {
        // Written so that the compiler sees whole fours: it would store them one by one otherwise.
        const int64_t at = kAligned ? (row * columns + c) / 4 * 4 : row * columns + c;
        const cuda::Four x = lanes.load(args.x.data() + at);
        cuda::Four gradient = lanes.load(args.dy.data() + at);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          gradient.at[k] *= Function::derivative(x.at[k]);
          sums.at[k] += gradient.at[k];
        }
        lanes.store(gradient, args.dx.data() + at);
      }
    };
    // Where it is aligned a row is whole fours.
    if constexpr (kAligned) {
      add_rows(cuda::AlignedFour());
    } else {
      add_rows(cuda::LooseFour{columns - c});
    }
  }
  warp_sums[warp][lane] = make_float4(sums.at[0], sums.at[1], sums.at[2], sums.at[3]);
  __syncthreads();
  const int64_t column = int64_t{blockIdx.y} * kTile + threadIdx.x;
  if (threadIdx.x >= kTile || column >= columns) return;
  float sum = 0;
#pragma unroll
  for (int from = 0; from < kWarps; ++from) {
    sum += reinterpret_cast<const float*>(&warp_sums[from][threadIdx.x / 4])[threadIdx.x % 4];
  }
  partials[blockIdx.x * columns + column] = sum;
}

template <class Function, class T>
void start(CudaStream stream, const ActivationForward<T>& args) {
  cuda::start_fours(stream, "activation_forward", args.x.size(), cuda::fours_aligned(args.x.data(), args.y.data()),
                    ForwardFours<Function, T>{args.x.data(), args.y.data()});
}

template <class Function, class T>
void start(CudaStream stream, const ActivationBackward<T>& args) {
  const int64_t columns = args.x.columns(), blocks = block_count(args.x.rows(), kRows);
  if (blocks == 0 || columns == 0) return;
  const bool aligned = columns % 4 == 0 && cuda::fours_aligned(args.dy.data(), args.x.data(), args.dx.data());
  float* partials = reinterpret_cast<float*>(stream.context->scratch(scratch_bytes(stream, args)));
  dim3 grid = cuda::grid(blocks);
  grid.y = static_cast<unsigned>(block_count(columns, kTile));
  cuda::start(stream, "activation_backward",
              aligned ? find_gradients<true, Function, T> : find_gradients<false, Function, T>, grid, kThreads, 0, args,
              partials);
  cuda::add_partials(stream, {.rows = partials, .count = blocks, .columns = columns, .stride = columns},
                     args.dbias.data());
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
