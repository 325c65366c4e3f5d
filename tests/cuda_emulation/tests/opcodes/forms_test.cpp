// What the kernels of forms.ptx must give.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <vector>

#include "../require.h"

extern "C" void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*,
                                       int*);

namespace {

constexpr uint32_t kThreads = 64;

uint32_t input(uint32_t thread) {
  return 3 * thread + 1;
}

bool is_right(const char* name, const std::function<uint32_t(uint32_t thread)>& expected) {
  static char stubs[16];
  static int used = 0;
  const char* const stub = &stubs[used++];
  __cudaRegisterFunction(nullptr, stub, nullptr, name, -1, nullptr, nullptr, nullptr, nullptr, nullptr);
  std::vector<uint32_t> numbers(kThreads), results(kThreads);
  for (uint32_t k = 0; k < kThreads; ++k) numbers[k] = input(k);
  void *in, *out;
  REQUIRE_CUDA(cudaMalloc(&in, 4 * kThreads));
  REQUIRE_CUDA(cudaMalloc(&out, 4 * kThreads));
  REQUIRE_CUDA(cudaMemcpy(in, numbers.data(), 4 * kThreads, cudaMemcpyHostToDevice));
  void* arguments[] = {&in, &out};
  REQUIRE_CUDA(cudaLaunchKernel(stub, dim3(1), dim3(kThreads), arguments, 0, nullptr));
  REQUIRE_CUDA(cudaMemcpy(results.data(), out, 4 * kThreads, cudaMemcpyDeviceToHost));
  REQUIRE_CUDA(cudaFree(in));
  REQUIRE_CUDA(cudaFree(out));
  for (uint32_t k = 0; k < kThreads; ++k) {
    if (results[k] == expected(k)) continue;
    std::fprintf(stderr, "%s, thread %u: %#x, expected %#x\n", name, k, results[k], expected(k));
    return false;
  }
  return true;
}

uint32_t reduced(uint32_t thread) {
  uint32_t results[] = {0, 0, 0, 1000000};
  for (uint32_t k = 0; k < kThreads; ++k) {
    results[0] += input(k);
    results[1] = std::max(results[1], input(k));
    results[2] |= input(k);
    results[3] = std::min(results[3], input(k));
  }
  return results[thread % 4];
}

}  // namespace

int main() {
  bool right = is_right("form_orders", [](uint32_t t) { return 6 * input(t) + 1; });
  right &= is_right("form_red", reduced);
  right &= is_right("form_jump", [](uint32_t t) { return 100 * (t % 3 + 1) + t + 1; });
  right &= is_right("form_spaces", [](uint32_t t) { return 1u + 2 + 8 + (t << 8) + (30u << 16) + (15u << 24); });
  right &= is_right("form_leaders", [](uint32_t) { return 0x100u + (1u << 4) + (2u << 12); });
  right &= is_right("form_wide_atomics", [](uint32_t) { return kThreads * (kThreads - 1) / 2 + 7; });
  std::puts(right ? "ok" : "wrong");
  return !right;
}
