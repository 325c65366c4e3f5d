#include "kernels/rows.h"

#include <numeric>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

TEST_CASE("gather and scatter move exactly the rows named", "[rows][device]") {
  test::on_every_device([](Device& device) {
    for (int threads : test::thread_counts(device)) {
      test::Threads scope(threads);
      for (int64_t columns : {0, 1, 3, 16, 31, 33, 65, 132}) {
        for (int64_t picked : {0, 1, 3, 31, 700}) {
          const int64_t rows = picked + 5;
          const int64_t odd = picked % 2;
          Guarded<float> x(rows * columns, odd), y(picked * columns, 2 * odd), dx(rows * columns, 3 * odd);
          Guarded<int64_t> indices(picked);
          test::fill_random(x, 1);
          test::fill_random(dx, 2);
          // Distinct and out of order: a permutation of the rows from its middle on.
          std::vector<int64_t> order(rows);
          std::iota(order.begin(), order.end(), 0);
          for (int64_t i = rows - 1; i > 0; --i) std::swap(order[i], order[test::random_int(3, i, i + 1)]);
          std::copy(order.begin(), order.begin() + picked, indices.begin());

          test::run_from_host(
              device, GatherRows<float>{
                          .x = x.matrix(rows, columns), .indices = indices.vector(), .y = y.matrix(picked, columns)});
          std::vector<float> expected = dx.copy();
          for (int64_t i = 0; i < picked; ++i) {
            for (int64_t c = 0; c < columns; ++c) {
              REQUIRE(y[i * columns + c] == x[indices[i] * columns + c]);
              expected[indices[i] * columns + c] += y[i * columns + c];
            }
          }
          test::run_from_host(device, ScatterAddRows<float>{.dy = y.matrix(picked, columns),
                                                            .indices = indices.vector(),
                                                            .dx = dx.matrix(rows, columns)});
          REQUIRE(test::same_bits(expected, dx.copy()));
          for (const Guarded<float>* buffer : {&x, &y, &dx}) REQUIRE(buffer->intact());
        }
      }
    }
  });
}

TEST_CASE("a row may be gathered more than once", "[rows][device]") {
  test::on_every_device([](Device& device) {
    Guarded<float> x(3 * 5), y(4 * 5);
    Guarded<int64_t> indices(4);
    test::fill_random(x, 1);
    const int64_t wanted[] = {2, 0, 2, 2};
    std::copy(wanted, wanted + 4, indices.begin());
    test::run_from_host(device,
                        GatherRows<float>{.x = x.matrix(3, 5), .indices = indices.vector(), .y = y.matrix(4, 5)});
    for (int64_t i = 0; i < 20; ++i) REQUIRE(y[i] == x[wanted[i / 5] * 5 + i % 5]);
  });
}

}  // namespace itemloom
