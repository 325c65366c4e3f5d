// Gradients of ops against central differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"
#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom::test {

// The inputs of an op under test: parameters with random values.
struct OpInput {
  int64_t rows;
  int64_t columns;  // 0: a vector
};

using OpUnderTest = std::function<Tensor(Tape&, const std::vector<Tensor>&)>;

template <class T>
std::vector<std::remove_const_t<T>> on_host(Device& device, Vector<T> values) {
  std::vector<std::remove_const_t<T>> copy(static_cast<size_t>(values.size()));
  device.copy_to_host(values.data(), copy.data(), values.size());
  return copy;
}

inline std::vector<float> random_floats(int64_t count, uint64_t seed, float low = -1, float high = 1) {
  std::vector<float> values(static_cast<size_t>(count));
  fill_random(values, seed, low, high);
  return values;
}

// Makes sum_i weight_i y_i the root of the tape.
inline double weighted_sum_root(Tape& tape, const Tensor& y, uint64_t seed) {
  const std::vector<float> weights = random_floats(y.size(), seed);
  const std::vector<float> values = on_host(tape.device(), y.flat());
  double sum = 0;
  for (size_t index = 0; index < weights.size(); ++index) sum += double(weights[index]) * values[index];
  if (tape.training()) {
    std::vector<float> gradient = on_host(tape.device(), tape.gradient_vector(y));
    for (size_t index = 0; index < weights.size(); ++index) gradient[index] += weights[index];
    tape.device().copy_from_host(gradient.data(), tape.gradient_vector(y).data(), y.size());
  }
  return sum;
}

// Compares every parameter's gradient with central differences of value(), for one device. `gradients` are what
// backward has made, each `offset` more than it should be. On a GPU about a dozen elements of each stand for all,
// because an emulated one takes long for a launch; the CPU looks at every one.
inline void check_differences(Device& device, ParameterStore& store, const std::vector<float>& gradients, float offset,
                              const std::function<double()>& value, float step, double tolerance) {
  const std::vector<float> values = on_host(device, store.values());
  for (const ParameterInfo& info : store.infos()) {
    const int64_t every = device.kind() == DeviceKind::kCpu ? 1 : std::max<int64_t>(1, info.size / 12);
    for (int64_t index = 0; index < info.size; index += every) {
      const int64_t place = info.offset + index;
      const float before = values[static_cast<size_t>(place)];
      auto value_at = [&](float number) {
        device.copy_from_host(&number, store.values().data() + place, 1);
        return value();
      };
      const double above = value_at(before + step), below = value_at(before - step);
      value_at(before);
      const double expected = (above - below) / (2.0 * step);
      const double actual = gradients[static_cast<size_t>(place)] - offset;
      INFO(info.name << "[" << index << "]: gradient " << actual << ", difference quotient " << expected);
      REQUIRE(std::abs(actual - expected) <= tolerance * std::max(1.0, std::abs(expected)));
    }
  }
}

// Does so on every device for an op of inputs drawn in [low, high), starting from gradients that are not zero (the rule
// is that backward adds).
inline void gradcheck(const std::vector<OpInput>& inputs, const OpUnderTest& op, float low = -1, float high = 1,
                      double tolerance = 4e-3, float step = 1e-2f) {
  on_every_device([&](Device& device) {
    ParameterStore store;
    for (size_t index = 0; index < inputs.size(); ++index) {
      store.add("input" + std::to_string(index), inputs[index].rows, inputs[index].columns, {});
    }
    store.allocate(device, 1);
    device.copy_from_host(random_floats(store.size(), 11, low, high).data(), store.values().data(), store.size());
    Arena arena(device.kind());
    std::vector<Tensor> tensors;
    for (size_t index = 0; index < inputs.size(); ++index) tensors.push_back(store.tensor(static_cast<int>(index)));
    const float offset = 0.5f;
    const std::vector<float> offsets(static_cast<size_t>(store.size()), offset);
    device.copy_from_host(offsets.data(), store.gradients().data(), store.size());
    auto value = [&](bool backward) {
      arena.reset();
      Tape tape(device, arena, Mode::kTraining, 5, 3);
      const double sum = weighted_sum_root(tape, op(tape, tensors), 23);
      if (backward) tape.backward();
      return sum;
    };
    value(true);
    check_differences(
        device, store, on_host(device, store.gradients()), offset, [&] { return value(false); }, step, tolerance);
  });
}

}  // namespace itemloom::test
