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
  int64_t rows, columns;
  Guarded<float> x, dy, y, dx, dbias;
  // `odd`: every buffer begins at another distance from a cache line.
  Case(int64_t rows, int64_t columns, float range, bool odd = true)
      : rows(rows),
        columns(columns),
        x(rows * columns, odd),
        dy(rows * columns, 2 * odd),
        y(rows * columns, 3 * odd),
        dx(rows * columns),
        dbias(columns, 5 * odd) {
    test::fill_random(x, 1, -range, range);
    test::fill_random(dy, 2);
    test::fill_random(dx, 3);
    test::fill_random(dbias, 4);
  }
  void run_backward(Device& device, Activation activation, Guarded<float>& to) {
    test::run_from_host(device, ActivationBackward<float>{.activation = activation,
                                                          .dy = dy.matrix(rows, columns),
                                                          .x = x.matrix(rows, columns),
                                                          .dx = to.matrix(rows, columns),
                                                          .dbias = dbias.vector()});
    for (const Guarded<float>* buffer : {&x, &dy, &y, &dx, &dbias}) REQUIRE(buffer->intact());
  }
  void run_both(Device& device, Activation activation) {
    test::run_from_host(device, ActivationForward<float>{.activation = activation, .x = x.vector(), .y = y.vector()});
    run_backward(device, activation, dx);
  }
};

// What a kernel makes of a case, by plain code over T.
template <class T>
struct Plain {
  std::vector<T> value, gradient, bias_gradient;
  Plain(Case& from, Activation activation) : bias_gradient(from.dbias.begin(), from.dbias.end()) {
    for (int64_t i = 0; i < from.x.size(); ++i) {
      value.push_back(naive_value(activation, T{from.x[i]}));
      gradient.push_back(from.dy[i] * naive_derivative(activation, T{from.x[i]}));
      bias_gradient[static_cast<size_t>(i % from.columns)] += gradient.back();
    }
  }
};

}  // namespace

TEST_CASE("activations, their derivatives and bias gradients are as exact as plain float code",
          "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (Activation activation : kAll) {
      for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{
               {0, 3}, {1, 1}, {1, 3}, {3, 1}, {33, 31}, {31, 33}, {65, 16}, {150, 132}, {3, 0}}) {
        for (float range : {1.0f, 4.0f, 20.0f}) {
          CAPTURE(static_cast<int>(activation), rows, columns, range, cpu_kernels(), device.kind());
          Case fused(rows, columns, range, rows % 2 == 1);
          const Plain<double> expected(fused, activation);
          const Plain<float> plain(fused, activation);
          fused.run_both(device, activation);
          const double unit = 1.2e-7;  // for counts so small that the plain version has no error by luck
          REQUIRE(test::worst_error(fused.y.copy(), expected.value) <=
                  2 * test::worst_error(plain.value, expected.value) + unit);
          REQUIRE(test::worst_error(fused.dx.copy(), expected.gradient) <=
                  2 * test::worst_error(plain.gradient, expected.gradient) + unit);
          REQUIRE(test::worst_error(fused.dbias.copy(), expected.bias_gradient) <=
                  2 * test::worst_error(plain.bias_gradient, expected.bias_gradient) + unit);
        }
      }
    }
  });
}

TEST_CASE("the gradient before an activation may take the place of the one behind it", "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{67, 40}, {35, 31}}) {
      Case apart(rows, columns, 4), in_place(rows, columns, 4);
      apart.run_backward(device, Activation::kGeluErf, apart.dx);
      in_place.run_backward(device, Activation::kGeluErf, in_place.dy);
      REQUIRE(test::same_bits(apart.dx.copy(), in_place.dy.copy()));
      REQUIRE(test::same_bits(apart.dbias.copy(), in_place.dbias.copy()));
    }
  });
}

TEST_CASE("GELU is within 1.5e-7 of the truth everywhere, its derivative within 2e-7", "[activation][device]") {
  test::on_every_device([](Device& device) {
    for (Activation activation : {Activation::kGeluErf, Activation::kGeluTanh}) {
      Case fused(200001, 1, 1);
      std::vector<double> value, derivative;
      for (int64_t i = 0; i < fused.x.size(); ++i) {
        fused.x[i] = static_cast<float>(i - 100000) * 0.8e-4f;
        fused.dy[i] = 1;
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
      Case fused(1, 35, 1);
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
        Case fused(test::by_device(device, 1077, 107), 65, 6);
        fused.run_both(device, activation);
        std::vector<float> all = fused.y.copy();
        all.insert(all.end(), fused.dx.begin(), fused.dx.end());
        all.insert(all.end(), fused.dbias.begin(), fused.dbias.end());
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
