// One thread an element.
#include "kernels/elementwise.h"

#include "kernels/cuda/launch.cuh"

namespace itemloom {
namespace cuda_elementwise {

constexpr int kThreads = 256;

__global__ void fill(Vector<float> y, float value) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < y.size()) y[i] = value;
}

__global__ void add_scaled(Vector<const float> x, float scale, Vector<float> y) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < y.size()) y[i] += scale * x[i];
}

}  // namespace cuda_elementwise

void launch(CudaStream stream, const Fill& args) {
  using namespace cuda_elementwise;
  cuda::start(stream, "fill", fill, cuda::grid(cuda::blocks_of(args.y.size(), kThreads)), kThreads, 0, args.y,
              args.value);
}

void launch(CudaStream stream, const AddScaled& args) {
  using namespace cuda_elementwise;
  cuda::start(stream, "add_scaled", add_scaled, cuda::grid(cuda::blocks_of(args.y.size(), kThreads)), kThreads, 0,
              args.x, args.scale, args.y);
}

}  // namespace itemloom
