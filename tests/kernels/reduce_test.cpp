#include "kernels/reduce.h"

#include <limits>
#include <numeric>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

using test::Guarded;

double sum_of_squares(Device& device, Guarded<float>& x) {
  Guarded<double> partials(block_count(x.vector().size(), kSumOfSquaresBlock));
  for (double& partial : partials) partial = 17;
  test::run_from_host(device, SumOfSquares{.x = x.vector(), .partials = partials.vector()});
  REQUIRE(partials.intact());
  REQUIRE(x.intact());
  return std::accumulate(partials.begin(), partials.end(), 0.0);
}

}  // namespace

TEST_CASE("the sum of squares is exact to double's rounding at any size", "[reduce][device]") {
  test::on_every_device([](Device& device) {
    for (int64_t count : {0, 1, 3, 15, 16, 17, 31, 33, 65, 16384, 16385, 100003}) {
      Guarded<float> x(count, count % 2);
      test::fill_random(x, 1);
      long double expected = 0;
      for (float value : x) expected += static_cast<long double>(value) * value;
      const double actual = sum_of_squares(device, x);
      REQUIRE(std::abs(actual - double(expected)) <= 1e-13 * double(expected));
      for (int threads : test::thread_counts(device)) {
        test::Threads scope(threads);
        REQUIRE(sum_of_squares(device, x) == actual);
      }
    }
  });
}

TEST_CASE("the sum of squares shows non-finite values and no others", "[reduce][device]") {
  test::on_every_device([](Device& device) {
    const float infinity = std::numeric_limits<float>::infinity(), greatest = std::numeric_limits<float>::max();
    for (int64_t count : {1, 33, 40000}) {
      for (int64_t place : {int64_t{0}, count / 2, count - 1}) {
        Guarded<float> x(count, count % 2);
        test::fill_random(x, 1);
        x[place] = infinity;
        REQUIRE(sum_of_squares(device, x) == std::numeric_limits<double>::infinity());
        x[place] = -infinity;
        REQUIRE(sum_of_squares(device, x) == std::numeric_limits<double>::infinity());
        x[place] = std::numeric_limits<float>::quiet_NaN();
        REQUIRE(std::isnan(sum_of_squares(device, x)));
        x[(place + 1) % count] = infinity;
        REQUIRE(!std::isfinite(sum_of_squares(device, x)));
        std::fill(x.begin(), x.end(), greatest);
        REQUIRE(sum_of_squares(device, x) ==
                Approx(double(count) * double(greatest) * double(greatest)).epsilon(1e-12));
        std::fill(x.begin(), x.end(), 1e-30f);
        REQUIRE(sum_of_squares(device, x) == Approx(double(count) * double{1e-30f} * double{1e-30f}).epsilon(1e-12));
      }
    }
  });
}

TEST_CASE("column sums are added and as exact as plain float code", "[reduce][device]") {
  test::on_every_device([](Device& device) {
    for (int64_t columns : {0, 1, 3, 31, 33, 64, 65, 300}) {
      for (int64_t rows : {0, 1, 3, 7, 8, 9, 127, 129, 1000}) {
        CAPTURE(rows, columns, cpu_kernels(), device.kind());
        Guarded<float> x(rows * columns, 1), start(columns), y(columns, 3);
        test::fill_random(x, 1, 0, 1);
        test::fill_random(start, 2);
        std::vector<float> plain = start.copy(), first;
        std::vector<double> expected(plain.begin(), plain.end());
        for (int64_t i = 0; i < rows * columns; ++i) {
          plain[i % columns] += x[i];
          expected[i % columns] += x[i];
        }
        for (int threads : test::thread_counts(device)) {
          test::Threads scope(threads);
          std::copy(start.begin(), start.end(), y.begin());
          test::run_from_host(device, ColumnSum<float>{.x = x.matrix(rows, columns), .y = y.vector()});
          REQUIRE(y.intact());
          REQUIRE(test::worst_error(y.copy(), expected) <= 2 * test::worst_error(plain, expected) + 1.2e-7);
          if (first.empty()) first = y.copy();
          REQUIRE(test::same_bits(first, y.copy()));
        }
      }
    }
  });
}

}  // namespace itemloom
