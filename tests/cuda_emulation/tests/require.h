// REQUIRE for the emulation's own tests, which are small programs: prints what failed and ends the program with 1.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

inline void require_true(bool condition, const char* text, const char* file, int line) {
  if (condition) return;
  std::fprintf(stderr, "%s:%d: REQUIRE(%s) failed\n", file, line, text);
  std::exit(1);
}

#define REQUIRE(condition) require_true((condition), #condition, __FILE__, __LINE__)
#define REQUIRE_CUDA(call) require_true((call) == cudaSuccess, #call, __FILE__, __LINE__)
