// Runs every kernel of the opcode table and compares its results, any NaN with any NaN.
#include "opcode_case.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../require.h"

// The kernels come from PTX alone, so this program registers what nvcc would have registered for them.
extern "C" void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*,
                                       int*);

namespace {

bool is_nan(uint64_t bits, Kind kind) {
  switch (kind) {
    case Kind::kF16:
      return (bits & 0x7fff) > 0x7c00;
    case Kind::kBF16:
      return (bits & 0x7fff) > 0x7f80;
    case Kind::kF32:
      return (bits & 0x7fffffff) > 0x7f800000;
    case Kind::kF64:
      return (bits & 0x7fffffffffffffff) > 0x7ff0000000000000;
    default:
      return false;
  }
}

bool is_near(uint64_t a, uint64_t b, Kind kind, uint64_t tolerance) {
  if (kind == Kind::kF16x2 || kind == Kind::kBF16x2) {
    const Kind lane = kind == Kind::kF16x2 ? Kind::kF16 : Kind::kBF16;
    return is_near(a & 0xffff, b & 0xffff, lane, tolerance) && is_near(a >> 16, b >> 16, lane, tolerance);
  }
  if (is_nan(a, kind) || is_nan(b, kind)) return is_nan(a, kind) && is_nan(b, kind);
  return (a > b ? a - b : b - a) <= tolerance;
}

int failures_of(const OpcodeCase& test, void* inputs, void* outputs) {
  static std::vector<char>& stubs = *new std::vector<char>(static_cast<size_t>(kOpcodeCaseCount));
  const char* const stub = &stubs[static_cast<size_t>(&test - kOpcodeCases)];
  __cudaRegisterFunction(nullptr, stub, nullptr, test.kernel, -1, nullptr, nullptr, nullptr, nullptr, nullptr);
  uint64_t results[2 * kOpcodeThreads];
  REQUIRE_CUDA(cudaMemcpy(inputs, test.operands, 4 * 8 * kOpcodeThreads, cudaMemcpyHostToDevice));
  REQUIRE_CUDA(cudaMemset(outputs, 0, sizeof results));
  void* arguments[] = {&inputs, &outputs};
  REQUIRE_CUDA(cudaLaunchKernel(stub, dim3(1), dim3(kOpcodeThreads), arguments, 0, nullptr));
  REQUIRE_CUDA(cudaMemcpy(results, outputs, sizeof results, cudaMemcpyDeviceToHost));
  int failures = 0;
  for (int k = 0; k < 2 * kOpcodeThreads; ++k) {
    if (is_near(results[k], test.expected[k], test.kinds[k % 2], test.tolerance)) continue;
    const uint64_t* const x = test.operands + 4 * (k / 2);
    if (failures++ == 0) {
      std::fprintf(stderr, "%s with %#lx %#lx %#lx %#lx gives %#lx, expected %#lx\n", test.text, x[0], x[1], x[2], x[3],
                   results[k], test.expected[k]);
    }
  }
  return failures;
}

}  // namespace

int main() {
  void *inputs, *outputs;
  REQUIRE_CUDA(cudaMalloc(&inputs, 4 * 8 * kOpcodeThreads));
  REQUIRE_CUDA(cudaMalloc(&outputs, 2 * 8 * kOpcodeThreads));
  int wrong = 0;
  for (int k = 0; k < kOpcodeCaseCount; ++k) wrong += failures_of(kOpcodeCases[k], inputs, outputs) != 0;
  std::printf("%d instruction forms, %d wrong\n", kOpcodeCaseCount, wrong);
  return wrong != 0;
}
