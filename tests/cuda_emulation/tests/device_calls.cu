// Real function calls, recursion, function pointers, jump tables, printf, early exit, grids of three dimensions, and
// what a launch refuses.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "on_device.h"

namespace call_test {

struct Pair {
  float first;
  int second[3];
};

__noinline__ __device__ Pair make_pair(float value, int number) {
  return {value * 2.0f, {number, number + 1, number + 2}};
}

__noinline__ __device__ unsigned fibonacci(unsigned n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

__noinline__ __device__ int twice(int x) {
  return 2 * x;
}
__noinline__ __device__ int squared(int x) {
  return x * x;
}

__noinline__ __device__ void stop_if(bool condition) {
  if (condition) asm volatile("exit;");
}

__device__ int table(int which, int x) {
  switch (which) {
    case 0:
      return x + 11;
    case 1:
      return x * 13;
    case 2:
      return x - 17;
    case 3:
      return x ^ 19;
    case 4:
      return x / 3;
    case 5:
      return x % 7;
    case 6:
      return -x;
    case 7:
      return x << 2;
    default:
      return 0;
  }
}

__global__ void calls(int* out, int flip) {
  const int k = static_cast<int>(threadIdx.x);
  const Pair pair = make_pair(static_cast<float>(k), k);
  int (*function)(int) = (k + flip) % 2 == 0 ? &twice : &squared;
  out[4 * k] = static_cast<int>(pair.first) + pair.second[0] + pair.second[1] + pair.second[2];
  out[4 * k + 1] = static_cast<int>(fibonacci(static_cast<unsigned>(k) % 12));
  out[4 * k + 2] = function(k);
  out[4 * k + 3] = table(k % 9, k);
}

__global__ void stops(int* out) {
  stop_if(threadIdx.x % 2 == 1);
  out[threadIdx.x] = 1;
}

__global__ void says() {
  if (threadIdx.x == 1) printf("thread %d of %u: %.2f %s %lld%%\n", threadIdx.x, blockDim.x, 0.25, "text", 1ll << 40);
}

__global__ void coordinates(uint32_t* out) {
  const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

__global__ void __launch_bounds__(128) bounded(int* out) {
  out[threadIdx.x] = 1;
}

__global__ void dynamic_bytes(unsigned* out) {
  unsigned bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  *out = bytes;
}

struct Large {
  int values[900];
};
__global__ void large_parameter(const __grid_constant__ Large large, int* out) {
  out[threadIdx.x] = large.values[threadIdx.x * 28 + 4];  // the address of a parameter is taken
}

}  // namespace call_test

namespace {

void test_calls() {
  OnDevice<int> out(32 * 4);
  call_test::calls<<<1, 32>>>(out.data(), 1);
  const std::vector<int> values = out.values();
  const unsigned fibonacci[] = {0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
  for (int k = 0; k < 32; ++k) {
    REQUIRE(values[4 * k] == 2 * k + 3 * k + 3);
    REQUIRE(values[4 * k + 1] == static_cast<int>(fibonacci[k % 12]));
    REQUIRE(values[4 * k + 2] == (k % 2 == 1 ? 2 * k : k * k));
    const int expected[] = {k + 11, k * 13, k - 17, k ^ 19, k / 3, k % 7, -k, k << 2, 0};
    REQUIRE(values[4 * k + 3] == expected[k % 9]);
  }
  OnDevice<int> stopped(32);
  call_test::stops<<<1, 32>>>(stopped.data());
  const std::vector<int> marks = stopped.values();
  for (int k = 0; k < 32; ++k) REQUIRE(marks[k] == (k % 2 == 0 ? 1 : 0));
}

void test_grids() {
  OnDevice<uint32_t> out(2 * 3 * 4 * 5 * 3 * 2);
  call_test::coordinates<<<dim3(2, 3, 4), dim3(5, 3, 2)>>>(out.data());
  const std::vector<uint32_t> values = out.values();
  for (uint32_t k = 0; k < values.size(); ++k) REQUIRE(values[k] == k / 30 * 1000 + k % 30);
  call_test::Large large;
  for (int k = 0; k < 900; ++k) large.values[k] = k * k;
  OnDevice<int> picked(32);
  call_test::large_parameter<<<1, 32>>>(large, picked.data());
  const std::vector<int> squares = picked.values();
  for (int k = 0; k < 32; ++k) REQUIRE(squares[k] == (k * 28 + 4) * (k * 28 + 4));
}

void test_printf() {
  call_test::says<<<1, 2>>>();
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

void test_refused_launches() {
  OnDevice<int> out(2048);
  OnDevice<unsigned> bytes(1);
  const auto refused = [](cudaError_t expected) { REQUIRE(cudaGetLastError() == expected); };
  call_test::bounded<<<1, 129>>>(out.data());
  refused(cudaErrorLaunchOutOfResources);
  call_test::stops<<<1, 1025>>>(out.data());
  refused(cudaErrorInvalidConfiguration);
  call_test::stops<<<0, 32>>>(out.data());
  refused(cudaErrorInvalidConfiguration);
  call_test::stops<<<dim3(1, 65536), 32>>>(out.data());
  refused(cudaErrorInvalidConfiguration);
  call_test::stops<<<1, dim3(1, 1, 65)>>>(out.data());
  refused(cudaErrorInvalidConfiguration);
  call_test::dynamic_bytes<<<1, 1, 50000>>>(bytes.data());
  refused(cudaErrorInvalidValue);
  REQUIRE_CUDA(cudaFuncSetAttribute(call_test::dynamic_bytes, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
  call_test::dynamic_bytes<<<1, 1, 50000>>>(bytes.data());
  REQUIRE(bytes.values()[0] == 50000);
}

}  // namespace

int main() {
  test_calls();
  test_grids();
  test_printf();
  test_refused_launches();
  std::puts("ok");
}
