// Gradients of ops against central differences.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"
#include "tests/support/kernels.h"

namespace itemloom::test {

// The inputs of an op under test: parameters with random values.
struct OpInput {
  int64_t rows;
  int64_t columns;  // 0: a vector
};

using OpUnderTest = std::function<Tensor(Tape&, const std::vector<Tensor>&)>;

// Makes sum_i weight_i y_i the root of the tape.
inline double weighted_sum_root(Tape& tape, const Tensor& y, uint64_t seed) {
  double sum = 0;
  for (int64_t index = 0; index < y.size(); ++index) {
    sum += double(random_float(seed, index)) * y.flat()[index];
  }
  if (tape.training()) {
    Vector<float> gradient = tape.gradient_vector(y);
    for (int64_t index = 0; index < y.size(); ++index) gradient[index] += random_float(seed, index);
  }
  return sum;
}

// Compares every input's gradient with central differences, starting from gradients that are not zero (the rule is that
// backward adds). Values are redrawn in [low, high) by `seed`.
inline void gradcheck(const std::vector<OpInput>& inputs, const OpUnderTest& op, float low = -1, float high = 1,
                      double tolerance = 4e-3, float step = 1e-2f) {
  ParameterStore store;
  for (size_t index = 0; index < inputs.size(); ++index) {
    store.add("input" + std::to_string(index), inputs[index].rows, inputs[index].columns, {});
  }
  Device device;
  store.allocate(device, 1);
  fill_random(store.values(), 11, low, high);
  Arena arena;
  auto tensors = [&] {
    std::vector<Tensor> result;
    for (size_t index = 0; index < inputs.size(); ++index) result.push_back(store.tensor(static_cast<int>(index)));
    return result;
  };
  auto value = [&] {
    arena.reset();
    Tape tape(device, arena, Mode::kTraining, 5, 3);
    const double result = weighted_sum_root(tape, op(tape, tensors()), 23);
    return result;
  };
  const float offset = 0.5f;
  for (float& gradient : store.gradients()) gradient = offset;
  {
    arena.reset();
    Tape tape(device, arena, Mode::kTraining, 5, 3);
    weighted_sum_root(tape, op(tape, tensors()), 23);
    tape.backward();
  }
  for (const ParameterInfo& info : store.infos()) {
    for (int64_t index = 0; index < info.size; ++index) {
      float& number = store.values()[info.offset + index];
      const float before = number;
      number = before + step;
      const double above = value();
      number = before - step;
      const double below = value();
      number = before;
      const double expected = (above - below) / (2.0 * step);
      const double actual = store.gradients()[info.offset + index] - offset;
      INFO(info.name << "[" << index << "]: gradient " << actual << ", difference quotient " << expected);
      REQUIRE(std::abs(actual - expected) <= tolerance * std::max(1.0, std::abs(expected)));
    }
  }
}

}  // namespace itemloom::test
