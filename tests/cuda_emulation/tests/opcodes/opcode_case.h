// The table that make_opcode_test.py writes.
#pragma once

#include <cstdint>

enum class Kind { kBits, kF16, kBF16, kF16x2, kBF16x2, kF32, kF64 };

struct OpcodeCase {
  const char* kernel;
  const char* text;
  const uint64_t* operands;  // four per thread
  const uint64_t* expected;  // two per thread
  int widths[2];             // bits of the results, 0 for none
  Kind kinds[2];
  uint64_t tolerance;  // in units of the last place
};

constexpr int kOpcodeThreads = 64;
extern const OpcodeCase kOpcodeCases[];
extern const int kOpcodeCaseCount;
