#include "kernels/dropout.h"

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

using test::Guarded;

constexpr DropoutKey kKey{0xFEDCBA9876543210, 41, 9};

struct Case {
  Device& device;
  int64_t rows, columns;
  int64_t odd = rows % 2;  // whether every buffer begins at another distance from a cache line
  Guarded<float> x{rows * columns, odd}, residual{rows * columns, 2 * odd}, y{rows * columns, 3 * odd};
  Guarded<float> dy{rows * columns, odd}, dx{rows * columns}, dresidual{rows * columns, 5 * odd};
  Guarded<uint32_t> row_ids{rows, 1};
  DropoutKey key = kKey;

  Case(Device& device, int64_t rows, int64_t columns) : device(device), rows(rows), columns(columns) {
    test::fill_random(x, 1);
    test::fill_random(residual, 2);
    test::fill_random(dy, 3);
    test::fill_random(dx, 4);
    test::fill_random(dresidual, 5);
    for (int64_t row = 0; row < rows; ++row) row_ids[row] = static_cast<uint32_t>(test::random_int(6, row, 1 << 30));
  }
  Matrix<const float> residual_view(bool given) {
    return given ? residual.matrix(rows, columns) : Matrix<const float>::none();
  }
  void forward(float probability, bool with_residual, Guarded<float>& to) {
    test::run_from_host(device, DropoutForward<float>{.x = x.matrix(rows, columns),
                                                      .residual = residual_view(with_residual),
                                                      .row_ids = row_ids.vector(),
                                                      .probability = probability,
                                                      .key = key,
                                                      .y = to.matrix(rows, columns)});
    require_intact();
  }
  void backward(float probability, bool with_residual) {
    test::run_from_host(device, DropoutBackward<float>{.dy = dy.matrix(rows, columns),
                                                       .row_ids = row_ids.vector(),
                                                       .probability = probability,
                                                       .key = key,
                                                       .dx = dx.matrix(rows, columns),
                                                       .dresidual = with_residual ? dresidual.matrix(rows, columns)
                                                                                  : Matrix<float>::none()});
    require_intact();
  }
  void require_intact() {
    for (const Guarded<float>* buffer : {&x, &residual, &y, &dy, &dx, &dresidual}) REQUIRE(buffer->intact());
  }
  // keep * scale, in double.
  double factor(int64_t row, int64_t column, float probability) {
    const uint32_t threshold = dropout_threshold(probability);
    if (!dropout_keeps(kKey, row_ids[row], static_cast<uint32_t>(column), threshold)) return 0;
    return 65536.0 / (65536 - threshold);
  }
};

void compare(Device& device, int64_t rows, int64_t columns, float probability, bool with_residual) {
  CAPTURE(rows, columns, probability, with_residual, cpu_kernels(), device.kind());
  Case fused(device, rows, columns);
  std::vector<double> y, dx, dresidual;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const int64_t i = row * columns + column;
      const double factor = fused.factor(row, column, probability);
      y.push_back((with_residual ? fused.residual[i] : 0.0) + factor * fused.x[i]);
      dx.push_back(fused.dx[i] + factor * fused.dy[i]);
      dresidual.push_back(fused.dresidual[i] + (with_residual ? fused.dy[i] : 0.0));
    }
  }
  fused.forward(probability, with_residual, fused.y);
  fused.backward(probability, with_residual);
  // Two roundings of values that are at most the scale.
  const double tolerance = 1.2e-7 * dropout_scale(probability);
  REQUIRE(test::worst_error(fused.y.copy(), y) <= tolerance);
  REQUIRE(test::worst_error(fused.dx.copy(), dx) <= tolerance);
  REQUIRE(test::worst_error(fused.dresidual.copy(), dresidual) <= tolerance);
}

}  // namespace

TEST_CASE("dropout draws core/rng.h's masks, forward and backward, for any row length", "[dropout][device]") {
  test::on_every_device([](Device& device) {
    using Sizes = std::vector<int64_t>;
    const Sizes all_columns =
        test::by_device<Sizes>(device, {1, 3, 8, 12, 31, 33, 63, 64, 65, 128, 200}, {1, 8, 12, 33, 64, 65, 200});
    const Sizes all_rows = test::by_device<Sizes>(device, {0, 1, 4, 17}, {0, 4, 17});
    for (bool with_residual : {false, true}) {
      for (float probability : {0.0f, 0.2f, 0.9f}) {
        for (int64_t columns : all_columns) {
          for (int64_t rows : all_rows) compare(device, rows, columns, probability, with_residual);
        }
      }
      compare(device, 3, 0, 0.2f, with_residual);
      compare(device, 600, 65, 0.5f, with_residual);
    }
  });
}

TEST_CASE("dropout may write over its input or its residual", "[dropout][device]") {
  test::on_every_device([](Device& device) {
    Case fused(device, 9, 37);
    fused.forward(0.3f, true, fused.y);
    const std::vector<float> expected = fused.y.copy();
    Case over_input(device, 9, 37), over_residual(device, 9, 37);
    over_input.forward(0.3f, true, over_input.x);
    REQUIRE(test::same_bits(expected, over_input.x.copy()));
    over_residual.forward(0.3f, true, over_residual.residual);
    REQUIRE(test::same_bits(expected, over_residual.residual.copy()));
  });
}

TEST_CASE("an element whose draw is the threshold is kept, and dropped by the next greater one", "[dropout][device]") {
  test::on_every_device([](Device& device) {
    Case fused(device, 1, 8);
    const PhiloxBlock words = philox({0, kKey.stream, fused.row_ids[0], kKey.step()}, static_cast<uint32_t>(kKey.seed),
                                     static_cast<uint32_t>(kKey.seed >> 32));
    for (int column = 0; column < 8; ++column) {
      const uint32_t word = words[static_cast<size_t>(column / 2)];
      const uint32_t draw = column % 2 == 0 ? word & 0xFFFF : word >> 16;
      for (uint32_t above : {0, 1}) {
        CAPTURE(column, above, cpu_kernels(), device.kind());
        fused.forward(static_cast<float>(draw + above) / 65536, false, fused.y);
        REQUIRE((fused.y[column] == 0) == (above == 1));
      }
    }
  });
}

TEST_CASE("a probability that rounds to one drops everything", "[dropout][device]") {
  test::on_every_device([](Device& device) {
    Case fused(device, 2, 33);
    fused.forward(0.9999999f, false, fused.y);
    for (float value : fused.y) REQUIRE(value == 0);
  });
}

TEST_CASE("dropout gives the same bits for any number of threads and on every processor and device",
          "[dropout][device]") {
  std::vector<float> first;
  test::on_every_device([&](Device& device) {
    for (int threads : test::thread_counts(device)) {
      test::Threads scope(threads);
      Case fused(device, 777, 65);
      fused.forward(0.25f, true, fused.y);
      fused.backward(0.25f, true);
      std::vector<float> all = fused.y.copy();
      all.insert(all.end(), fused.dx.begin(), fused.dx.end());
      all.insert(all.end(), fused.dresidual.begin(), fused.dresidual.end());
      if (first.empty()) first = all;
      REQUIRE(test::same_bits(first, all));
    }
  });
}

TEST_CASE("dropout takes the step from memory where it is said to be there", "[dropout][device]") {
  test::on_every_device([](Device& device) {
    Case told(device, 5, 37), read(device, 5, 37);
    const DeviceBlock step = device.allocate(sizeof(uint32_t));
    device.copy_from_host(&kKey.told_step, step.as<uint32_t>(1).data(), 1);
    read.key = {kKey.seed, 7, kKey.stream, step.as<uint32_t>(1).data()};
    for (Case* each : {&told, &read}) {
      each->forward(0.3f, true, each->y);
      each->backward(0.3f, true);
    }
    REQUIRE(test::same_bits(told.y.copy(), read.y.copy()));
    REQUIRE(test::same_bits(told.dx.copy(), read.dx.copy()));
  });
}

}  // namespace itemloom
