// The shape of most of the project's kernels: a block reduces rows with warp shuffles and shared memory.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "require.h"

namespace emulation_test {

constexpr int kThreads = 256;

__device__ float block_sum(float value, float* partial) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = lane < kThreads / 32 ? partial[lane] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  __syncthreads();
  return value;
}

__global__ void __launch_bounds__(kThreads) layer_norm(const float* x, const float* gamma, float* y, int columns) {
  __shared__ float partial[kThreads / 32];
  const float* row = x + static_cast<size_t>(blockIdx.x) * columns;
  float sum = 0.0f;
  for (int c = threadIdx.x; c < columns; c += kThreads) sum += row[c];
  const float mean = block_sum(sum, partial) / columns;
  sum = 0.0f;
  for (int c = threadIdx.x; c < columns; c += kThreads) sum += (row[c] - mean) * (row[c] - mean);
  const float scale = rsqrtf(block_sum(sum, partial) / columns + 1e-5f);
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    y[static_cast<size_t>(blockIdx.x) * columns + c] = (row[c] - mean) * scale * gamma[c];
  }
}

}  // namespace emulation_test

int main() {
  const int rows = 5, columns = 333;
  std::vector<float> x(rows * columns), gamma(columns), y(rows * columns);
  for (size_t k = 0; k < x.size(); ++k) x[k] = static_cast<float>((k * 2654435761u >> 8) % 1000) / 100.0f;
  for (int c = 0; c < columns; ++c) gamma[c] = 1.0f + 0.01f * c;
  float *dx, *dgamma, *dy;
  REQUIRE_CUDA(cudaMalloc(&dx, x.size() * 4));
  REQUIRE_CUDA(cudaMalloc(&dgamma, gamma.size() * 4));
  REQUIRE_CUDA(cudaMalloc(&dy, y.size() * 4));
  REQUIRE_CUDA(cudaMemcpy(dx, x.data(), x.size() * 4, cudaMemcpyHostToDevice));
  REQUIRE_CUDA(cudaMemcpy(dgamma, gamma.data(), gamma.size() * 4, cudaMemcpyHostToDevice));
  emulation_test::layer_norm<<<rows, emulation_test::kThreads>>>(dx, dgamma, dy, columns);
  REQUIRE_CUDA(cudaGetLastError());
  REQUIRE_CUDA(cudaMemcpy(y.data(), dy, y.size() * 4, cudaMemcpyDeviceToHost));
  for (int r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (int c = 0; c < columns; ++c) mean += x[r * columns + c] / columns;
    for (int c = 0; c < columns; ++c) variance += (x[r * columns + c] - mean) * (x[r * columns + c] - mean) / columns;
    for (int c = 0; c < columns; ++c) {
      const double expected = (x[r * columns + c] - mean) / std::sqrt(variance + 1e-5) * gamma[c];
      REQUIRE(std::fabs(y[r * columns + c] - expected) < 1e-4);
    }
  }
  for (float* pointer : {dx, dgamma, dy}) REQUIRE_CUDA(cudaFree(pointer));
  std::puts("ok");
}
