// Sums and maxima over a warp and over a block. The order is fixed, so two runs give the same bits, and every thread
// gets the result. All threads of the warp or block must take part.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace itemloom::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFF;

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Over groups of kLanes neighbouring lanes (a power of two). `combine` must not mind which of its operands comes first:
// then the butterfly leaves the same bits in every lane.
template <int kLanes = kWarp, class T, class Combine>
__device__ T reduce_warp(T value, Combine combine) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}
template <int kLanes = kWarp, class T>
__device__ T warp_sum(T value) {
  return reduce_warp<kLanes>(value, Sum());
}
template <int kLanes = kWarp, class T>
__device__ T warp_max(T value) {
  return reduce_warp<kLanes>(value, Max());
}

// Over a one-dimensional block of kThreads, whole warps. `shared` holds one T a warp and may be used again at once.
template <int kThreads, class T, class Combine>
__device__ T reduce_block(T value, T* shared, Combine combine) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kWarps * kWarp == kThreads);
  value = reduce_warp(value, combine);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  T result = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) result = combine(result, shared[warp]);
  __syncthreads();
  return result;
}
template <int kThreads, class T>
__device__ T block_sum(T value, T* shared) {
  return reduce_block<kThreads>(value, shared, Sum());
}
template <int kThreads, class T>
__device__ T block_max(T value, T* shared) {
  return reduce_block<kThreads>(value, shared, Max());
}

}  // namespace itemloom::cuda
