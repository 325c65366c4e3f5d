#include "kernels/activation.h"

#include <limits>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

using test::Guarded;

template <class T>
T naive_value(Activation activation, T x) {
  const T u = T(std::sqrt(2 / M_PI)) * (x + T(0.044715) * x * x * x);
  switch (activation) {
    case Activation::kGeluErf:
      return x / 2 * (1 + std::erf(x * T(M_SQRT1_2)));
    case Activation::kGeluTanh:
      return x / 2 * (1 + std::tanh(u));
    case Activation::kRelu:
      return x > 0 ? x : 0;
  }
  return 0;
}

template <class T>
T naive_derivative(Activation activation, T x) {
  const T u = T(std::sqrt(2 / M_PI)) * (x + T(0.044715) * x * x * x);
  const T du = T(std::sqrt(2 / M_PI)) * (1 + T(3 * 0.044715) * x * x);
  switch (activation) {
    case Activation::kGeluErf:
      return (1 + std::erf(x * T(M_SQRT1_2))) / 2 + x * std::exp(-x * x / 2) / T(std::sqrt(2 * M_PI));
    case Activation::kGeluTanh:
      return (1 + std::tanh(u)) / 2 + x / 2 * (1 - std::tanh(u) * std::tanh(u)) * du;
    case Activation::kRelu:
      return x > 0 ? 1 : 0;
  }
  return 0;
}

constexpr Activation kAll[] = {Activation::kGeluErf, Activation::kGeluTanh, Activation::kRelu};

struct Case {
  Guarded<float> x, dy, y, dx;
  // `odd`: every buffer begins at another distance from a cache line.
  Case(int64_t count, float range, bool odd = true) : x(count, odd), dy(count, 2 * odd), y(count, 3 * odd), dx(count) {
    test::fill_random(x, 1, -range, range);
    test::fill_random(dy, 2);
    test::fill_random(dx, 3);
  }
  void run_both(Device& device, Activation activation) {
    test::run_from_host(device, ActivationForward<float>{.activation = activation, .x = x.vector(), .y = y.vector()});
    test::run_from_host(device, ActivationBackward<float>{
                                    .activation = activation, .dy = dy.vector(), .x = x.vector(), .dx = dx.vector()});
    for (const Guarded<float>* buffer : {&x, &dy, &y, &dx}) REQUIRE(buffer->intact());
  }
};

}  // namespace

TEST_CASE("activations and their derivatives are as exact as plain float code", "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (Activation activation : kAll) {
      for (int64_t count : {0, 1, 3, 15, 16, 31, 33, 65, 20000}) {
        for (float range : {1.0f, 4.0f, 20.0f}) {
          CAPTURE(static_cast<int>(activation), count, range, cpu_kernels(), device.kind());
          Case fused(count, range, count % 2 == 1);
          const std::vector<float> before = fused.dx.copy();
          fused.run_both(device, activation);
          std::vector<double> value, sum;
          std::vector<float> plain_value, plain_sum;
          for (int64_t i = 0; i < count; ++i) {
            const float x = fused.x[i], dy = fused.dy[i];
            value.push_back(naive_value(activation, double{x}));
            plain_value.push_back(naive_value(activation, x));
            sum.push_back(before[i] + dy * naive_derivative(activation, double{x}));
            plain_sum.push_back(before[i] + dy * naive_derivative(activation, x));
          }
          const double unit = 1.2e-7;  // for counts so small that the plain version has no error by luck
          REQUIRE(test::worst_error(fused.y.copy(), value) <= 2 * test::worst_error(plain_value, value) + unit);
          REQUIRE(test::worst_error(fused.dx.copy(), sum) <= 2 * test::worst_error(plain_sum, sum) + unit);
        }
      }
    }
  });
}

TEST_CASE("GELU is within 1.5e-7 of the truth everywhere, its derivative within 2e-7", "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (Activation activation : {Activation::kGeluErf, Activation::kGeluTanh}) {
      Case fused(200001, 1);
      std::vector<double> value, derivative;
      for (int64_t i = 0; i < fused.x.size(); ++i) {
        fused.x[i] = static_cast<float>(i - 100000) * 0.8e-4f;
        fused.dy[i] = 1;
        fused.dx[i] = 0;
        value.push_back(naive_value(activation, double{fused.x[i]}));
        derivative.push_back(naive_derivative(activation, double{fused.x[i]}));
      }
      fused.run_both(device, activation);
      REQUIRE(test::worst_error(fused.y.copy(), value) < 1.5e-7);
      REQUIRE(test::worst_error(fused.dx.copy(), derivative) < 2e-7);
    }
  });
}

TEST_CASE("activations keep NaN and infinity visible", "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (Activation activation : kAll) {
      Case fused(35, 1);
      fused.x[0] = fused.x[34] = std::numeric_limits<float>::quiet_NaN();
      fused.x[1] = std::numeric_limits<float>::infinity();
      fused.run_both(device, activation);
      REQUIRE(std::isnan(fused.y[0]));
      REQUIRE(std::isnan(fused.y[34]));
      REQUIRE(std::isinf(fused.y[1]));
    }
  });
}

TEST_CASE("activations give the same bits for any number of threads and in every run", "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (Activation activation : kAll) {
      const auto bits = [&](int threads) {
        test::Threads scope(threads);
        Case fused(test::by_device(device, 70001, 7001), 6);
        fused.run_both(device, activation);
        std::vector<float> all = fused.y.copy();
        all.insert(all.end(), fused.dx.begin(), fused.dx.end());
        return all;
      };
      std::vector<float> first;
      for (int threads : test::thread_counts(device)) {
        const std::vector<float> these = bits(threads);
        if (first.empty()) first = these;
        REQUIRE(test::same_bits(first, these));
      }
    }
  });
}

}  // namespace itemloom
