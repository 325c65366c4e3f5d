#include "kernels/layer_norm.h"

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

using test::Guarded;

// The header's formulas, in double (the reference) and in float (the plain version).
template <class T>
struct Naive {
  std::vector<T> y, mean, inverse_std, dx, dgamma, dbeta;

  Naive(int64_t rows, int64_t columns, const float* x, const float* gamma, const float* beta, const float* dy,
        float epsilon, float start) {
    dx.assign(rows * columns, start);
    dgamma.assign(columns, start);
    dbeta.assign(columns, start);
    for (int64_t r = 0; r < rows; ++r) {
      T sum = 0, squares = 0, g_sum = 0, gn_sum = 0;
      for (int64_t c = 0; c < columns; ++c) sum += x[r * columns + c];
      mean.push_back(sum / T(columns));
      for (int64_t c = 0; c < columns; ++c) {
        const T centred = x[r * columns + c] - mean[r];
        squares += centred * centred;
      }
      inverse_std.push_back(1 / std::sqrt(squares / T(columns) + epsilon));
      for (int64_t c = 0; c < columns; ++c) {
        const T n = (x[r * columns + c] - mean[r]) * inverse_std[r], gradient = dy[r * columns + c];
        y.push_back(n * gamma[c] + beta[c]);
        g_sum += gradient * gamma[c];
        gn_sum += gradient * gamma[c] * n;
        dgamma[c] += gradient * n;
        dbeta[c] += gradient;
      }
      for (int64_t c = 0; c < columns; ++c) {
        const T n = (x[r * columns + c] - mean[r]) * inverse_std[r], g = dy[r * columns + c] * T(gamma[c]);
        dx[r * columns + c] += inverse_std[r] * (g - g_sum / T(columns) - n * gn_sum / T(columns));
      }
    }
  }
};

struct Case {
  int64_t rows, columns;
  int64_t odd = rows % 2;  // whether every buffer begins at another distance from a cache line
  Guarded<float> x{rows * columns, odd}, gamma{columns, 3 * odd}, beta{columns}, dy{rows * columns, 2 * odd};
  Guarded<float> y{rows * columns, odd}, mean{rows}, inverse_std{rows, odd};
  Guarded<float> dx{rows * columns, 3 * odd}, dgamma{columns, odd}, dbeta{columns, 2 * odd};

  Case(int64_t rows, int64_t columns, float offset, float start, uint64_t seed = 0) : rows(rows), columns(columns) {
    test::fill_random(x, 4 * seed, offset - 1, offset + 1);
    test::fill_random(gamma, 4 * seed + 1, 0.5f, 1.5f);
    test::fill_random(beta, 4 * seed + 2);
    test::fill_random(dy, 4 * seed + 3);
    for (Guarded<float>* sum : {&dx, &dgamma, &dbeta}) std::fill(sum->begin(), sum->end(), start);
  }
  void run_both(Device& device, float epsilon) {
    test::run_from_host(device, LayerNormForward<float>{.x = x.matrix(rows, columns),
                                                        .gamma = gamma.vector(),
                                                        .beta = beta.vector(),
                                                        .epsilon = epsilon,
                                                        .y = y.matrix(rows, columns),
                                                        .mean = mean.vector(),
                                                        .inverse_std = inverse_std.vector()});
    test::run_from_host(device, LayerNormBackward<float>{.dy = dy.matrix(rows, columns),
                                                         .x = x.matrix(rows, columns),
                                                         .gamma = gamma.vector(),
                                                         .mean = mean.vector(),
                                                         .inverse_std = inverse_std.vector(),
                                                         .dx = dx.matrix(rows, columns),
                                                         .dgamma = dgamma.vector(),
                                                         .dbeta = dbeta.vector()});
    for (const Guarded<float>* buffer : {&x, &gamma, &beta, &dy, &y, &mean, &inverse_std, &dx, &dgamma, &dbeta}) {
      REQUIRE(buffer->intact());
    }
  }
};

// The worst errors seen, of the kernel and of plain float code. They are compared over many rows: on a single short row
// either can be exact by luck.
struct Errors {
  Device& device;
  double fused[6] = {}, plain[6] = {};

  void measure(int64_t rows, int64_t columns, float offset, float epsilon, uint64_t seed = 0) {
    const float start = 0.25f;
    Case fused_case(rows, columns, offset, start, seed);
    fused_case.run_both(device, epsilon);
    const auto naive = [&](auto zero) {
      return Naive<decltype(zero)>(rows, columns, fused_case.x.data(), fused_case.gamma.data(), fused_case.beta.data(),
                                   fused_case.dy.data(), epsilon, start);
    };
    const Naive<double> expected = naive(0.0);
    const Naive<float> simple = naive(0.0f);
    int part = 0;
    const auto add = [&](Guarded<float>& actual, const std::vector<float>& simple,
                         const std::vector<double>& expected) {
      fused[part] = std::max(fused[part], test::worst_error(actual.copy(), expected));
      plain[part] = std::max(plain[part], test::worst_error(simple, expected));
      REQUIRE(std::isfinite(fused[part++]));
    };
    add(fused_case.y, simple.y, expected.y);
    add(fused_case.mean, simple.mean, expected.mean);
    add(fused_case.inverse_std, simple.inverse_std, expected.inverse_std);
    add(fused_case.dx, simple.dx, expected.dx);
    add(fused_case.dgamma, simple.dgamma, expected.dgamma);
    add(fused_case.dbeta, simple.dbeta, expected.dbeta);
  }
  void require_small() const {
    for (int part = 0; part < 6; ++part) {
      CAPTURE(part, cpu_kernels(), device.kind());
      REQUIRE(fused[part] <= 2 * plain[part] + 1.2e-7);
    }
  }
};

}  // namespace

TEST_CASE("layer norm is as exact as plain float code, for any row length", "[layer_norm][device]") {
  test::on_every_device([](Device& device) {
    using Sizes = std::vector<int64_t>;
    const Sizes all_columns = test::by_device<Sizes>(
        device, {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 128, 257, 1028}, {1, 3, 16, 33, 64, 257, 1028, 1031});
    const Sizes all_rows = test::by_device<Sizes>(device, {0, 1, 3, 4, 5, 31, 129, 131}, {0, 1, 31, 132});
    const auto seeds = test::by_device<std::vector<uint64_t>>(device, {1, 2, 3, 4, 5}, {1, 2, 3});
    for (int64_t columns : all_columns) {
      CAPTURE(columns);
      Errors errors{device};
      for (int64_t rows : all_rows) {
        for (uint64_t seed : seeds) errors.measure(rows, columns, 0, 1e-5f, seed);
      }
      errors.require_small();
    }
    Errors errors{device};
    errors.measure(1000, 64, 0, 1e-12f);
    errors.measure(0, 0, 0, 1e-5f);
    errors.require_small();
  });
}

TEST_CASE("layer norm survives a mean much greater than the deviation", "[layer_norm][device]") {
  // A one-pass variance loses every digit here.
  test::on_every_device([](Device& device) {
    for (int64_t columns : {33, 64}) {
      Errors errors{device};
      errors.measure(20, columns, 4096, 1e-5f);
      errors.require_small();
    }
  });
}

TEST_CASE("layer norm gives the same bits for any number of threads and for a row on its own", "[layer_norm][device]") {
  test::on_every_device([](Device& device) {
    const auto bits = [&](int threads) {
      test::Threads scope(threads);
      Case fused(1031, 65, 0, 0.5f);
      fused.run_both(device, 1e-5f);
      std::vector<float> all = fused.y.copy();
      for (Guarded<float>* part : {&fused.mean, &fused.inverse_std, &fused.dx, &fused.dgamma, &fused.dbeta}) {
        all.insert(all.end(), part->begin(), part->end());
      }
      return all;
    };
    std::vector<float> first;
    for (int threads : test::thread_counts(device)) {
      const std::vector<float> these = bits(threads);
      if (first.empty()) first = these;
      REQUIRE(test::same_bits(first, these));
    }

    Case many(7, 65, 0, 0), single(1, 65, 0, 0);
    std::copy(many.x.data() + 2 * 65, many.x.data() + 3 * 65, single.x.data());
    many.run_both(device, 1e-5f);
    single.run_both(device, 1e-5f);
    REQUIRE(std::memcmp(many.y.data() + 2 * 65, single.y.data(), 65 * sizeof(float)) == 0);
  });
}

}  // namespace itemloom
