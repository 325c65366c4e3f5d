#include "kernels/unit_rows.h"

#include <cmath>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

namespace {

// The second row is of zeros.
void verify_unit_rows(Device& device, int64_t rows, int64_t columns) {
  INFO(rows << " x " << columns);
  Guarded<float> x(rows * columns, columns % 2), y(rows * columns, columns % 3);
  for (int64_t i = 0; i < x.size(); ++i) x[i] = i / columns == 1 ? 0.0f : test::random_float(1, i, -1e15f, 2e15f);
  std::fill(y.begin(), y.end(), NAN);
  test::run_from_host(device, UnitRows{.x = x.matrix(rows, columns), .y = y.matrix(rows, columns)});
  std::vector<double> expected;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (int64_t c = 0; c < columns; ++c) sum += double{x[row * columns + c]} * x[row * columns + c];
    for (int64_t c = 0; c < columns; ++c) {
      expected.push_back(sum > 0 ? x[row * columns + c] / std::sqrt(sum) : 0);
    }
  }
  REQUIRE(test::worst_error(y.copy(), expected, 1e-3) < 2.4e-7);
  REQUIRE((x.intact() && y.intact()));
}

}  // namespace

TEST_CASE("rows come to length one, and zeros stay", "[unit_rows][device]") {
  test::on_every_device([](Device& device) {
    for (const int64_t columns : {0, 1, 3, 4, 31, 33, 65, 260}) {
      for (const int64_t rows : {0, 1, 3, 17}) verify_unit_rows(device, rows, columns);
    }
  });
}

}  // namespace itemloom
