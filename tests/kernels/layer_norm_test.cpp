#include "kernels/layer_norm.h"

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

using test::Guarded;

constexpr DropoutKey kKey{0xFEDCBA9876543210, 41, 9};

struct Variant {
  bool residual;
  float probability;
  bool others;   // whether the sum has another gradient
  bool product;  // whether x is a product with a bias, and sum and dx take the memory of x and dy

  bool sums() const { return residual || probability > 0; }
};
constexpr Variant kPlain{false, 0, false, false}, kAll{true, 0.2f, true, false}, kProduct{true, 0.2f, true, true};
constexpr Variant kVariants[] = {kPlain, kAll, kProduct, {true, 0, false, true}, {false, 0.2f, true, false}};

struct Case {
  int64_t rows, columns;
  Variant variant;
  int64_t odd = rows % 2;  // whether every buffer begins at another distance from a cache line
  Guarded<float> x{rows * columns, odd}, residual{rows * columns, 2 * odd}, gamma{columns, 3 * odd}, beta{columns};
  Guarded<float> dy{rows * columns, 2 * odd}, dsum{rows * columns, odd};
  Guarded<float> sum{rows * columns, 5 * odd}, y{rows * columns, odd}, mean{rows}, inverse_std{rows, odd};
  Guarded<float> dx{rows * columns, 3 * odd}, dresidual{rows * columns, odd};
  Guarded<float> dbias{columns, odd}, dgamma{columns, odd}, dbeta{columns, 2 * odd};
  Guarded<uint32_t> row_ids{rows, 1};

  Case(int64_t rows, int64_t columns, Variant variant, float offset, float start, uint64_t seed = 0)
      : rows(rows), columns(columns), variant(variant) {
    test::fill_random(x, 6 * seed, offset - 1, offset + 1);
    test::fill_random(gamma, 6 * seed + 1, 0.5f, 1.5f);
    test::fill_random(beta, 6 * seed + 2);
    test::fill_random(dy, 6 * seed + 3);
    test::fill_random(residual, 6 * seed + 4);
    test::fill_random(dsum, 6 * seed + 5);
    for (int64_t row = 0; row < rows; ++row) row_ids[row] = static_cast<uint32_t>(test::random_int(6, row, 1 << 30));
    for (Guarded<float>* total : {&dx, &dresidual, &dbias, &dgamma, &dbeta})
      std::fill(total->begin(), total->end(), start);
  }
  void run_both(Device& device, float epsilon) {
    const Matrix<float> no_matrix = Matrix<float>::none();
    if (variant.product) {
      std::copy(x.begin(), x.end(), sum.begin());
      std::copy(dy.begin(), dy.end(), dx.begin());
    }
    const Matrix<float> sums = variant.sums() ? sum.matrix(rows, columns) : no_matrix;
    test::run_from_host(
        device, LayerNormForward<float>{.x = variant.product ? sums : x.matrix(rows, columns),
                                        .residual = variant.residual ? residual.matrix(rows, columns) : no_matrix,
                                        .row_ids = row_ids.vector(),
                                        .probability = variant.probability,
                                        .key = kKey,
                                        .gamma = gamma.vector(),
                                        .beta = beta.vector(),
                                        .epsilon = epsilon,
                                        .sum = sums,
                                        .y = y.matrix(rows, columns),
                                        .mean = mean.vector(),
                                        .inverse_std = inverse_std.vector()});
    test::run_from_host(
        device, LayerNormBackward<float>{.dy = (variant.product ? dx : dy).matrix(rows, columns),
                                         .dsum = variant.others ? dsum.matrix(rows, columns) : no_matrix,
                                         .sum = variant.sums() ? sums : x.matrix(rows, columns),
                                         .gamma = gamma.vector(),
                                         .mean = mean.vector(),
                                         .inverse_std = inverse_std.vector(),
                                         .row_ids = row_ids.vector(),
                                         .probability = variant.probability,
                                         .key = kKey,
                                         .dx = dx.matrix(rows, columns),
                                         .dresidual = variant.residual ? dresidual.matrix(rows, columns) : no_matrix,
                                         .dbias = variant.product ? dbias.vector() : Vector<float>::none(),
                                         .dgamma = dgamma.vector(),
                                         .dbeta = dbeta.vector()});
    for (const Guarded<float>* buffer : {&x, &residual, &gamma, &beta, &dy, &dsum, &sum, &y, &mean, &inverse_std, &dx,
                                         &dresidual, &dbias, &dgamma, &dbeta}) {
      REQUIRE(buffer->intact());
    }
  }
};

// The header's formulas, in double (the reference) and in float (the plain version).
template <class T>
struct Naive {
  std::vector<T> sum, y, mean, inverse_std, dx, dresidual, dbias, dgamma, dbeta;

  Naive(Case& from, float epsilon, float start) {
    const int64_t columns = from.columns;
    const Variant& variant = from.variant;
    sum.assign(from.rows * columns, 0);
    dx.assign(from.rows * columns, variant.product ? 0 : start);
    dbias.assign(columns, start);
    dresidual.assign(from.rows * columns, start);
    dgamma.assign(columns, start);
    dbeta.assign(columns, start);
    const uint32_t threshold = dropout_threshold(variant.probability);
    for (int64_t r = 0; r < from.rows; ++r) {
      const auto factor = [&](int64_t c) {
        return dropout_keeps(kKey, from.row_ids[r], static_cast<uint32_t>(c), threshold)
                   ? T(65536) / T(65536 - threshold)
                   : T(0);
      };
      T total = 0, squares = 0, g_sum = 0, gn_sum = 0;
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t i = r * columns + c;
        sum[i] = factor(c) * from.x[i] + (variant.residual ? from.residual[i] : T(0));
        total += sum[i];
      }
      mean.push_back(total / T(columns));
      for (int64_t c = 0; c < columns; ++c) {
        const T centred = sum[r * columns + c] - mean[r];
        squares += centred * centred;
      }
      inverse_std.push_back(1 / std::sqrt(squares / T(columns) + epsilon));
      for (int64_t c = 0; c < columns; ++c) {
        const T n = (sum[r * columns + c] - mean[r]) * inverse_std[r], gradient = from.dy[r * columns + c];
        y.push_back(n * from.gamma[c] + from.beta[c]);
        g_sum += gradient * from.gamma[c];
        gn_sum += gradient * from.gamma[c] * n;
        dgamma[c] += gradient * n;
        dbeta[c] += gradient;
      }
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t i = r * columns + c;
        const T n = (sum[i] - mean[r]) * inverse_std[r], g = from.dy[i] * T(from.gamma[c]);
        const T dsum = (variant.others ? from.dsum[i] : T(0)) +
                       inverse_std[r] * (g - g_sum / T(columns) - n * gn_sum / T(columns));
        dx[i] += factor(c) * dsum;
        if (variant.product) dbias[c] += factor(c) * dsum;
        if (variant.residual) dresidual[i] += dsum;
      }
    }
    if (!variant.sums()) sum.assign(from.rows * columns, 0);  // nobody writes it
  }
};

// The worst errors seen, of the kernel and of plain float code. They are compared over many rows of all variants: on a
// few short rows either can be exact by luck.
struct Errors {
  Device& device;
  double fused[9] = {}, plain[9] = {};

  void measure(int64_t rows, int64_t columns, Variant variant, float offset, float epsilon, uint64_t seed = 0) {
    const float start = 0.25f;
    Case fused_case(rows, columns, variant, offset, start, seed);
    fused_case.run_both(device, epsilon);
    const Naive<double> expected(fused_case, epsilon, start);
    const Naive<float> simple(fused_case, epsilon, start);
    int part = 0;
    const auto add = [&](Guarded<float>& actual, const std::vector<float>& simple, const std::vector<double>& expected,
                         double floor = 1) {
      fused[part] = std::max(fused[part], test::worst_error(actual.copy(), expected, floor));
      plain[part] = std::max(plain[part], test::worst_error(simple, expected, floor));
      REQUIRE(std::isfinite(fused[part++]));
    };
    add(fused_case.sum, simple.sum, expected.sum);
    add(fused_case.y, simple.y, expected.y);
    add(fused_case.mean, simple.mean, expected.mean);
    add(fused_case.inverse_std, simple.inverse_std, expected.inverse_std);
    add(fused_case.dx, simple.dx, expected.dx);
    add(fused_case.dresidual, simple.dresidual, expected.dresidual);
    const double size = std::max(1.0, std::sqrt(double(rows)));  // of a sum on its way, wherever it ends
    add(fused_case.dbias, simple.dbias, expected.dbias, size);
    add(fused_case.dgamma, simple.dgamma, expected.dgamma, size);
    add(fused_case.dbeta, simple.dbeta, expected.dbeta, size);
  }
  void require_small() const {
    for (int part = 0; part < 9; ++part) {
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
    const Sizes all_rows = test::by_device<Sizes>(device, {0, 1, 3, 4, 5, 31, 129, 131}, {0, 1, 37});
    const auto seeds = test::by_device<std::vector<uint64_t>>(device, {1, 2, 3}, {1});
    const auto measure_all = [&](Errors& errors, int64_t rows, int64_t columns, float epsilon) {
      for (const Variant& variant : kVariants) {
        for (uint64_t seed : seeds) errors.measure(rows, columns, variant, 0, epsilon, seed);
      }
    };
    for (int64_t columns : all_columns) {
      CAPTURE(columns);
      Errors errors{device};
      for (int64_t rows : all_rows) measure_all(errors, rows, columns, 1e-5f);
      errors.require_small();
    }
    Errors errors{device};
    measure_all(errors, test::by_device<int64_t>(device, 1000, 130), 64, 1e-12f);
    measure_all(errors, 0, 0, 1e-5f);
    errors.require_small();
  });
}

TEST_CASE("layer norm survives a mean much greater than the deviation", "[layer_norm][device]") {
  // A one-pass variance loses every digit here.
  test::on_every_device([](Device& device) {
    for (int64_t columns : {33, 64}) {
      Errors errors{device};
      errors.measure(20, columns, kPlain, 4096, 1e-5f);
      errors.require_small();
    }
  });
}

TEST_CASE("layer norm gives the same bits for any number of threads and for a row on its own", "[layer_norm][device]") {
  test::on_every_device([](Device& device) {
    for (const Variant& variant : {kPlain, kProduct}) {
      const auto bits = [&](int threads) {
        test::Threads scope(threads);
        Case fused(1031, 65, variant, 0, 0.5f);
        fused.run_both(device, 1e-5f);
        std::vector<float> all = fused.y.copy();
        for (Guarded<float>* part : {&fused.sum, &fused.mean, &fused.inverse_std, &fused.dx, &fused.dresidual,
                                     &fused.dbias, &fused.dgamma, &fused.dbeta}) {
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
    }

    Case many(7, 65, kAll, 0, 0), single(1, 65, kAll, 0, 0);
    std::copy(many.x.data() + 2 * 65, many.x.data() + 3 * 65, single.x.data());
    std::copy(many.residual.data() + 2 * 65, many.residual.data() + 3 * 65, single.residual.data());
    single.row_ids[0] = many.row_ids[2];
    many.run_both(device, 1e-5f);
    single.run_both(device, 1e-5f);
    REQUIRE(std::memcmp(many.y.data() + 2 * 65, single.y.data(), 65 * sizeof(float)) == 0);
  });
}

TEST_CASE("what layer norm adds to a residual has the same bits on every processor and device",
          "[layer_norm][device]") {
  std::vector<float> first;
  test::on_every_device([&](Device& device) {
    Case fused(33, 201, kAll, 0, 0);
    fused.run_both(device, 1e-5f);
    if (first.empty()) first = fused.sum.copy();
    REQUIRE(test::same_bits(first, fused.sum.copy()));
  });
}

}  // namespace itemloom
