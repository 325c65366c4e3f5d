// Buffers of bf16 for kernel tests, and what one rounding to bf16 may cost.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/bf16.h"
#include "tests/support/kernels.h"

namespace itemloom::test {

inline void fill_random(Guarded<Bf16>& buffer, uint64_t seed, float low = -1, float high = 1) {
  int64_t index = 0;
  for (Bf16& value : buffer) value = to_bf16(random_float(seed, index++, low, high));
}

inline std::vector<double> numbers(Guarded<Bf16>& buffer) {
  std::vector<double> values;
  for (Bf16 value : buffer) values.push_back(double{to_float(value)});
  return values;
}
inline std::vector<double> numbers(Guarded<float>& buffer) {
  return {buffer.begin(), buffer.end()};
}

inline double rounded_to_bf16(double value) {
  return double{to_float(to_bf16(static_cast<float>(value)))};
}

// Half the distance of bf16 numbers of this size.
inline double half_step(double value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, exponent - 9);
}

// The greatest |actual - expected|, counted in what one rounding to bf16 may cost, where fp32 arithmetic on numbers of
// about `scale` comes before it: at most 1 for a kernel that rounds once.
inline double worst_rounding(const std::vector<double>& actual, const std::vector<double>& expected, double scale = 1) {
  REQUIRE(actual.size() == expected.size());
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]) / (half_step(expected[i]) + 1e-6 * scale);
    if (!(error <= worst)) worst = error;
    if (std::isnan(error)) return error;
  }
  return worst;
}

}  // namespace itemloom::test
