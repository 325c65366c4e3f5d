#include "kernels/log_sum_exp.h"

#include <cmath>
#include <limits>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

namespace {

constexpr float kNothing = -INFINITY;

// One in `excluded` numbers is -infinity (0: none), and all of the last row are.
void verify_log_sums(Device& device, int64_t rows, int64_t columns, float greatest, int64_t excluded) {
  INFO(rows << " x " << columns << " up to " << greatest << ", one in " << excluded << " is -infinity");
  Guarded<float> x(rows * columns, columns % 3);
  Guarded<double> y(rows, 1);
  for (int64_t i = 0; i < x.size(); ++i) {
    const bool nothing = (excluded > 0 && test::random_int(1, i, excluded) == 0) || i / columns == rows - 1;
    x[i] = nothing ? kNothing : test::random_float(2, i, -greatest, greatest);
  }
  const LogSumExp args{.x = x.matrix(rows, columns), .y = y.vector()};
  std::vector<double> first;
  for (const int threads : test::thread_counts(device)) {
    const test::Threads scope(threads);
    std::fill(y.begin(), y.end(), 77.0);
    test::run_from_host(device, args);
    if (first.empty()) first = y.copy();
    REQUIRE(test::same_bits(first, y.copy()));
  }
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c) sum += std::exp(double{x[row * columns + c]} - greatest);
    const double expected = greatest + std::log(sum);
    if (sum == 0) {
      REQUIRE(y[row] == kNothing);
    } else {
      REQUIRE(std::abs(y[row] - expected) < 1e-6);
    }
  }
  REQUIRE((x.intact() && y.intact()));
}

}  // namespace

TEST_CASE("the logarithm of a sum of exponentials is that of doubles", "[log_sum_exp][device]") {
  test::on_every_device([](Device& device) {
    for (const int64_t columns : {0, 1, 3, 8, 31, 33, 65, 1023, 1026, 2500}) {
      for (const float greatest : {0.0f, 3.0f, 80.0f}) {
        verify_log_sums(device, 3, columns, greatest, 0);
        verify_log_sums(device, 2, columns, greatest, 2);
      }
    }
    verify_log_sums(device, 0, 5, 1, 0);
  });
}

TEST_CASE("the logarithm of a sum with something that is not a number is none", "[log_sum_exp][device]") {
  test::on_every_device([](Device& device) {
    for (const int64_t place : {0, 1, 40}) {
      for (const bool beside_nothing : {false, true}) {
        CAPTURE(place, beside_nothing);
        Guarded<float> x(41);
        test::fill_random(x, 3);
        for (int64_t i = 0; i < 41 && beside_nothing; ++i) x[i] = -std::numeric_limits<float>::infinity();
        x[place] = NAN;
        Guarded<double> y(1);
        test::run_from_host(device, LogSumExp{.x = x.matrix(1, 41), .y = y.vector()});
        REQUIRE(std::isnan(y[0]));
      }
    }
  });
}

}  // namespace itemloom
