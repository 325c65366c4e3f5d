// What a softmax over a row divides by.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/fours.cuh"

namespace itemloom::cuda {

// The greatest of some numbers and the sum of exp(number - top).
struct SoftmaxScale {
  static constexpr float kNothing = -std::numeric_limits<float>::infinity();
  float top = kNothing, sum = 0;

  // exp(x - to), also where both are -infinity.
  static __device__ float exp_over(float x, float to) { return x == kNothing ? 0.0f : expf(x - to); }
  // Of all numbers of both.
  static __device__ SoftmaxScale of_both(const SoftmaxScale& a, const SoftmaxScale& b) {
    const float top = fmaxf(a.top, b.top);
    return {top, a.sum * exp_over(a.top, top) + b.sum * exp_over(b.top, top)};
  }
};

// Of a row, in every thread of its block: four columns a thread at a time, then over the block.
template <int kThreads>
__device__ SoftmaxScale softmax_scale(const float* x, int64_t columns, float* shared) {
  SoftmaxScale own;
  for (int64_t begin = RowFour<kThreads>::first_column(x); begin < columns; begin += 4 * kThreads) {
    const Four values = RowFour<kThreads>(begin, columns).load(x, SoftmaxScale::kNothing);
    float top = own.top;
#pragma unroll
    for (int k = 0; k < 4; ++k) top = fmaxf(top, values.at[k]);
    own.sum *= SoftmaxScale::exp_over(own.top, top);
#pragma unroll
    for (int k = 0; k < 4; ++k) own.sum += SoftmaxScale::exp_over(values.at[k], top);
    own.top = top;
  }
  SoftmaxScale scale;
  // Unlike cuda::Max, fmaxf gives all threads the same beside a NaN.
  scale.top = reduce_block<kThreads>(own.top, shared, [](float a, float b) { return fmaxf(a, b); });
  scale.sum = block_sum<kThreads>(own.sum * SoftmaxScale::exp_over(own.top, scale.top), shared);
  return scale;
}

}  // namespace itemloom::cuda
