// Kernels over bf16 against double references on the same bf16 inputs. What a kernel stores as bf16 it rounds once, so
// that it may be half a step of bf16 off; what it stores as fp32 is as exact as ever. Attention: attention_test.cpp.
#ifdef ITEMLOOM_CUDA

#include "tests/support/bf16.h"

#include <limits>
#include <numeric>

#include "kernels/activation.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/embedding_bag.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/masked_item_loss.h"
#include "kernels/reduce.h"
#include "kernels/rows.h"
#include "tests/support/devices.h"

namespace itemloom::test {
namespace {

using Numbers = std::vector<double>;

struct Extents {
  int64_t rows, columns;
};
// Whole fours at aligned addresses and neither; `odd` moves every buffer away from where it would be aligned.
constexpr Extents kExtents[] = {{0, 8}, {1, 1}, {3, 31}, {5, 36}, {33, 64}, {20, 65}};

// Runs body(device, twice) two times: what it gives must have the same bits.
template <class Body>
void same_twice(Body body) {
  Device device(DeviceKind::kCuda);
  const Numbers first = body(device), second = body(device);
  REQUIRE(same_bits(first, second));
}

void append(Numbers& all, const Numbers& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

TEST_CASE("bf16 and float are converted as core/bf16.h says", "[bf16][device]") {
  Device device(DeviceKind::kCuda);
  Guarded<Bf16> all(0x10000), back(0x10000, 1);
  Guarded<float> wide(0x10000, 3);
  for (int64_t i = 0; i < all.size(); ++i) all[i] = {static_cast<uint16_t>(i)};
  run_from_host(device, Convert<Bf16, float>{.x = all.vector(), .y = wide.vector()});
  for (int64_t i = 0; i < all.size(); ++i) {
    REQUIRE(std::bit_cast<uint32_t>(wide[i]) == static_cast<uint32_t>(i) << 16);
  }
  // Between two neighbours: below, at and above the middle.
  for (uint32_t lower : {0x0000u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
    for (int64_t i = 0; i < all.size(); ++i) {
      wide[i] = std::bit_cast<float>(static_cast<uint32_t>(i) << 16 | lower);
    }
    run_from_host(device, Convert<float, Bf16>{.x = wide.vector(), .y = back.vector()});
    for (int64_t i = 0; i < all.size(); ++i) {
      INFO(i << " " << lower);
      REQUIRE(back[i].bits == to_bf16(wide[i]).bits);
    }
  }
  REQUIRE((all.intact() && back.intact() && wide.intact()));
}

TEST_CASE("activations of bf16 are rounded once", "[bf16][device]") {
  const auto gelu = [](double x) { return x / 2 * (1 + std::erf(x * M_SQRT1_2)); };
  const auto derivative = [](double x) {
    return (1 + std::erf(x * M_SQRT1_2)) / 2 + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
  };
  for (const auto [rows, columns] : kExtents) {
    same_twice([&, rows = rows, columns = columns](Device& device) {
      const int64_t count = rows * columns, odd = rows % 2;
      Guarded<Bf16> x(count, odd), dy(count, 2 * odd), y(count, 3 * odd), dx(count);
      Guarded<float> dbias(columns, odd);
      fill_random(x, 1, -4, 4);
      fill_random(dy, 2);
      fill_random(dbias, 3);
      const Numbers xs = numbers(x), gradients = numbers(dy);
      Numbers value, gradient, dbias_sum = numbers(dbias);
      for (size_t i = 0; i < xs.size(); ++i) {
        value.push_back(gelu(xs[i]));
        gradient.push_back(gradients[i] * derivative(xs[i]));
        dbias_sum[i % static_cast<size_t>(columns)] += gradient[i];
      }
      run_from_host(device,
                    ActivationForward<Bf16>{.activation = Activation::kGeluErf, .x = x.vector(), .y = y.vector()});
      run_from_host(device, ActivationBackward<Bf16>{.activation = Activation::kGeluErf,
                                                     .dy = dy.matrix(rows, columns),
                                                     .x = x.matrix(rows, columns),
                                                     .dx = dx.matrix(rows, columns),
                                                     .dbias = dbias.vector()});
      REQUIRE(worst_rounding(numbers(y), value) <= 1);
      REQUIRE(worst_rounding(numbers(dx), gradient) <= 1);
      REQUIRE(worst_error(numbers(dbias), dbias_sum) <= 1e-6);
      for (const Guarded<Bf16>* buffer : {&x, &dy, &y, &dx}) REQUIRE(buffer->intact());
      REQUIRE(dbias.intact());
      Numbers all = numbers(y);
      for (const Numbers& more : {numbers(dx), numbers(dbias)}) append(all, more);
      return all;
    });
  }
}

TEST_CASE("dropout of bf16 draws the masks of floats and rounds once", "[bf16][device]") {
  constexpr DropoutKey kKey{0xFEDCBA9876543210, 41, 9};
  for (const auto [rows, columns] : kExtents) {
    for (float probability : {0.0f, 0.3f}) {
      same_twice([&, rows = rows, columns = columns](Device& device) {
        const int64_t count = rows * columns, odd = rows % 2;
        Guarded<Bf16> x(count, odd), residual(count, 2 * odd), y(count, 3 * odd);
        Guarded<Bf16> dy(count, odd), dx(count), dresidual(count, 5 * odd);
        Guarded<uint32_t> row_ids(rows, 1);
        uint64_t seed = 1;
        for (Guarded<Bf16>* buffer : {&x, &residual, &dy, &dx, &dresidual}) fill_random(*buffer, seed++);
        for (int64_t row = 0; row < rows; ++row) row_ids[row] = static_cast<uint32_t>(random_int(6, row, 1 << 30));
        const uint32_t threshold = dropout_threshold(probability);
        Numbers value = numbers(residual), dx_sum = numbers(dx), dresidual_sum = numbers(dresidual);
        for (int64_t i = 0; i < count; ++i) {
          const bool kept = dropout_keeps(kKey, row_ids[i / columns], static_cast<uint32_t>(i % columns), threshold);
          const double factor = kept ? 65536.0 / (65536 - threshold) : 0;
          value[i] += factor * to_float(x[i]);
          dx_sum[i] += factor * to_float(dy[i]);
          dresidual_sum[i] += to_float(dy[i]);
        }
        run_from_host(device, DropoutForward<Bf16>{.x = x.matrix(rows, columns),
                                                   .residual = residual.matrix(rows, columns),
                                                   .row_ids = row_ids.vector(),
                                                   .probability = probability,
                                                   .key = kKey,
                                                   .y = y.matrix(rows, columns)});
        run_from_host(device, DropoutBackward<Bf16>{.dy = dy.matrix(rows, columns),
                                                    .row_ids = row_ids.vector(),
                                                    .probability = probability,
                                                    .key = kKey,
                                                    .dx = dx.matrix(rows, columns),
                                                    .dresidual = dresidual.matrix(rows, columns)});
        REQUIRE(worst_rounding(numbers(y), value) <= 1);
        REQUIRE(worst_rounding(numbers(dx), dx_sum) <= 1);
        REQUIRE(worst_rounding(numbers(dresidual), dresidual_sum) <= 1);
        for (const Guarded<Bf16>* buffer : {&x, &residual, &y, &dy, &dx, &dresidual}) REQUIRE(buffer->intact());
        Numbers all = numbers(y);
        append(all, numbers(dx));
        append(all, numbers(dresidual));
        return all;
      });
    }
  }
}

TEST_CASE("rows of bf16 are moved as they are and added with one rounding", "[bf16][device]") {
  Device device(DeviceKind::kCuda);
  for (const auto [rows, columns] : kExtents) {
    const int64_t picked = (rows + 1) / 2, odd = rows % 2;
    Guarded<Bf16> x(rows * columns, odd), y(picked * columns, 2 * odd), dx(rows * columns, 3 * odd);
    Guarded<int64_t> indices(picked);
    for (int64_t i = 0; i < picked; ++i) indices[i] = rows - 1 - 2 * i;
    fill_random(x, 1);
    fill_random(dx, 2);
    run_from_host(
        device,
        GatherRows<Bf16>{.x = x.matrix(rows, columns), .indices = indices.vector(), .y = y.matrix(picked, columns)});
    Numbers expected = numbers(dx);
    for (int64_t i = 0; i < picked * columns; ++i) {
      const int64_t place = indices[i / columns] * columns + i % columns;
      REQUIRE(y[i].bits == x[place].bits);
      expected[static_cast<size_t>(place)] += to_float(x[place]);
    }
    run_from_host(device,
                  ScatterAddRows<Bf16>{
                      .dy = y.matrix(picked, columns), .indices = indices.vector(), .dx = dx.matrix(rows, columns)});
    REQUIRE(worst_rounding(numbers(dx), expected, 0) <= 1);
    for (const Guarded<Bf16>* buffer : {&x, &y, &dx}) REQUIRE(buffer->intact());
  }
}

TEST_CASE("embedding rows become bf16 with one rounding, their gradients floats without", "[bf16][device]") {
  constexpr int64_t kTableRows = 7;
  for (const auto [bags, columns] : kExtents) {
    same_twice([&, bags = bags, columns = columns](Device& device) {
      const int64_t odd = bags % 2;
      Guarded<float> table(kTableRows * columns, odd), dtable(kTableRows * columns, 5 * odd);
      Guarded<Bf16> y(bags * columns, odd), dy(bags * columns, 3 * odd);
      Guarded<int32_t> ids(2 * bags);
      Guarded<int64_t> offsets(bags + 1);
      fill_random(table, 1);
      fill_random(dtable, 2);
      fill_random(dy, 3);
      for (int64_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(random_int(4, i, kTableRows));
      for (int64_t bag = 0; bag <= bags; ++bag) offsets[bag] = 2 * bag;
      Numbers value(static_cast<size_t>(bags * columns)), sum = numbers(dtable);
      for (int64_t i = 0; i < ids.size(); ++i) {
        for (int64_t c = 0; c < columns; ++c) {
          value[i / 2 * columns + c] += table[ids[i] * columns + c] / 2.0;
          sum[ids[i] * columns + c] += to_float(dy[i / 2 * columns + c]) / 2.0;
        }
      }
      run_from_host(device, EmbeddingBagForward<Bf16>{.table = table.matrix(kTableRows, columns),
                                                      .ids = ids.vector(),
                                                      .bag_offsets = offsets.vector(),
                                                      .weights = Vector<const float>::none(),
                                                      .mode = BagMode::kMean,
                                                      .y = y.matrix(bags, columns)});
      run_from_host(device, EmbeddingBagBackward<Bf16>{.dy = dy.matrix(bags, columns),
                                                       .ids = ids.vector(),
                                                       .bag_offsets = offsets.vector(),
                                                       .weights = Vector<const float>::none(),
                                                       .mode = BagMode::kMean,
                                                       .dtable = dtable.matrix(kTableRows, columns)});
      REQUIRE(worst_rounding(numbers(y), value) <= 1);
      REQUIRE(worst_error(numbers(dtable), sum) <= 2e-6);
      REQUIRE((table.intact() && dtable.intact() && y.intact() && dy.intact()));
      Numbers all = numbers(y);
      append(all, numbers(dtable));
      return all;
    });
  }
}

namespace {

// One launch of layer norm forward and backward; `sums`: of a residual and what dropout leaves of a product, in whose
// memory the sum is put, with another gradient of the sum.
Numbers test_norm(Device& device, int64_t rows, int64_t columns, bool sums) {
  constexpr DropoutKey kKey{0xFEDCBA9876543210, 41, 9};
  const int64_t count = rows * columns, odd = rows % 2;
  const float probability = sums ? 0.3f : 0;
  const uint32_t threshold = dropout_threshold(probability);
  Guarded<Bf16> x(count, odd), residual(count, 3 * odd), dy(count, 2 * odd), dsum(count, odd);
  Guarded<Bf16> sum(count, odd), y(count, odd), dx(count, 3 * odd), dresidual(count, odd);
  Guarded<float> gamma(columns, 3 * odd), beta(columns), mean(rows), inverse_std(rows, odd);
  Guarded<float> dbias(columns, 5 * odd), dgamma(columns, odd), dbeta(columns, 2 * odd);
  Guarded<uint32_t> row_ids(rows);
  uint64_t seed = 1;
  for (Guarded<Bf16>* buffer : {&x, &residual, &dy, &dsum, &dx, &dresidual}) fill_random(*buffer, seed++);
  fill_random(gamma, seed++, 0.5f, 1.5f);
  for (Guarded<float>* buffer : {&beta, &dbias, &dgamma, &dbeta}) fill_random(*buffer, seed++);
  for (int64_t row = 0; row < rows; ++row) row_ids[row] = static_cast<uint32_t>(random_int(6, row, 1 << 30));
  Numbers total, value, dx_sum = numbers(dx), dresidual_sum = numbers(dresidual), dbias_sum = numbers(dbias);
  if (sums) {
    std::copy(x.begin(), x.end(), sum.begin());
    std::copy(dy.begin(), dy.end(), dx.begin());
    std::fill(dx_sum.begin(), dx_sum.end(), 0.0);
  }
  Numbers dgamma_sum = numbers(dgamma), dbeta_sum = numbers(dbeta);
  const Matrix<Bf16> none = Matrix<Bf16>::none();
  run_from_host(device, LayerNormForward<Bf16>{.x = (sums ? sum : x).matrix(rows, columns),
                                               .residual = sums ? residual.matrix(rows, columns) : none,
                                               .row_ids = row_ids.vector(),
                                               .probability = probability,
                                               .key = kKey,
                                               .gamma = gamma.vector(),
                                               .beta = beta.vector(),
                                               .epsilon = 1e-5f,
                                               .sum = sums ? sum.matrix(rows, columns) : none,
                                               .y = y.matrix(rows, columns),
                                               .mean = mean.vector(),
                                               .inverse_std = inverse_std.vector()});
  Guarded<Bf16>& stored = sums ? sum : x;
  double scale = 1;  // the greatest inverse_std: rows of one or two columns may have large ones
  for (int64_t r = 0; r < rows; ++r) {
    const auto at = [&](Guarded<Bf16>& buffer, int64_t c) { return double{to_float(buffer[r * columns + c])}; };
    const auto factor = [&](int64_t c) {
      return dropout_keeps(kKey, row_ids[r], static_cast<uint32_t>(c), threshold) ? 65536.0 / (65536 - threshold) : 0;
    };
    double row_sum = 0, squares = 0, g_sum = 0, gn_sum = 0;
    for (int64_t c = 0; c < columns; ++c) {
      total.push_back(sums ? at(residual, c) + factor(c) * at(x, c) : at(x, c));
      row_sum += at(stored, c);
    }
    const double centre = row_sum / double(columns);
    for (int64_t c = 0; c < columns; ++c) squares += (at(stored, c) - centre) * (at(stored, c) - centre);
    const double inverse = 1 / std::sqrt(squares / double(columns) + 1e-5f);
    scale = std::max(scale, inverse);
    for (int64_t c = 0; c < columns; ++c) {
      const double n = (at(stored, c) - centre) * inverse;
      value.push_back(n * gamma[c] + beta[c]);
      g_sum += at(dy, c) * gamma[c];
      gn_sum += at(dy, c) * gamma[c] * n;
      dgamma_sum[c] += at(dy, c) * n;
      dbeta_sum[c] += at(dy, c);
    }
    for (int64_t c = 0; c < columns; ++c) {
      const double n = (at(stored, c) - centre) * inverse;
      const double gradient = (sums ? at(dsum, c) : 0) +
                              inverse * (at(dy, c) * gamma[c] - g_sum / double(columns) - n * gn_sum / double(columns));
      dx_sum[r * columns + c] += factor(c) * gradient;
      dresidual_sum[r * columns + c] += sums ? gradient : 0;
      dbias_sum[c] += sums ? factor(c) * gradient : 0;
    }
  }
  run_from_host(device, LayerNormBackward<Bf16>{.dy = (sums ? dx : dy).matrix(rows, columns),
                                                .dsum = sums ? dsum.matrix(rows, columns) : none,
                                                .sum = stored.matrix(rows, columns),
                                                .gamma = gamma.vector(),
                                                .mean = mean.vector(),
                                                .inverse_std = inverse_std.vector(),
                                                .row_ids = row_ids.vector(),
                                                .probability = probability,
                                                .key = kKey,
                                                .dx = dx.matrix(rows, columns),
                                                .dresidual = sums ? dresidual.matrix(rows, columns) : none,
                                                .dbias = sums ? dbias.vector() : Vector<float>::none(),
                                                .dgamma = dgamma.vector(),
                                                .dbeta = dbeta.vector()});
  CAPTURE(rows, columns, sums);
  REQUIRE(worst_rounding(numbers(stored), total) <= 1);
  REQUIRE(worst_rounding(numbers(y), value, 2) <= 1);
  REQUIRE(worst_rounding(numbers(dx), dx_sum, 2 * scale) <= 1);
  REQUIRE(worst_rounding(numbers(dresidual), dresidual_sum, 2 * scale) <= 1);
  REQUIRE(worst_error(numbers(dbias), dbias_sum) <= 5e-6 * scale);
  REQUIRE(worst_error(numbers(dgamma), dgamma_sum) <= 5e-6);
  REQUIRE(worst_error(numbers(dbeta), dbeta_sum) <= 5e-6);
  for (const Guarded<Bf16>* buffer : {&x, &residual, &dy, &dsum, &sum, &y, &dx, &dresidual}) REQUIRE(buffer->intact());
  for (const Guarded<float>* buffer : {&gamma, &beta, &mean, &inverse_std, &dbias, &dgamma, &dbeta})
    REQUIRE(buffer->intact());
  Numbers all = numbers(y);
  for (const Numbers& more :
       {numbers(sum), numbers(dx), numbers(dresidual), numbers(dbias), numbers(dgamma), numbers(dbeta)}) {
    append(all, more);
  }
  return all;
}

}  // namespace

TEST_CASE("layer norm of bf16 is computed in fp32 from the stored sum and rounded once", "[bf16][device]") {
  for (const auto [rows, columns] : {Extents{3, 1}, {20, 31}, {5, 36}, {33, 64}, {2, 1100}}) {
    for (bool sums : {false, true}) {
      same_twice(
          [&, rows = rows, columns = columns](Device& device) { return test_norm(device, rows, columns, sums); });
    }
  }
}

TEST_CASE("columns of bf16 are summed in fp32", "[bf16][device]") {
  for (const auto [rows, columns] : {Extents{0, 3}, {1, 31}, {129, 65}, {1000, 64}}) {
    same_twice([&, rows = rows, columns = columns](Device& device) {
      Guarded<Bf16> x(rows * columns, 1);
      Guarded<float> y(columns, 3);
      fill_random(x, 1, 0, 1);
      fill_random(y, 2);
      Numbers expected = numbers(y);
      for (int64_t i = 0; i < x.size(); ++i) expected[i % columns] += to_float(x[i]);
      run_from_host(device, ColumnSum<Bf16>{.x = x.matrix(rows, columns), .y = y.vector()});
      REQUIRE(worst_error(numbers(y), expected) <= 1e-6);
      REQUIRE((x.intact() && y.intact()));
      return numbers(y);
    });
  }
}

namespace {

struct Product {
  int64_t m, n, k;
  bool transpose_a, transpose_b, with_bias, accumulate;
};

// a, b, bias and c are filled; gives what c is to become, from factors that `rounded` rounds.
template <class Operand, class Output, class Rounded>
Numbers expected_product(const Product& p, Guarded<Operand>& a, Guarded<Operand>& b, Guarded<Output>& bias,
                         Guarded<Output>& c, Rounded rounded) {
  const Numbers left = numbers(a), right = numbers(b), added = numbers(bias), start = numbers(c);
  Numbers result;
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = (p.accumulate ? start[i * p.n + j] : 0) + (p.with_bias ? added[j] : 0);
      for (int64_t q = 0; q < p.k; ++q) {
        sum += rounded(left[p.transpose_a ? q * p.m + i : i * p.k + q]) *
               rounded(right[p.transpose_b ? j * p.k + q : q * p.n + j]);
      }
      result.push_back(sum);
    }
  }
  return result;
}

template <class Operand, class Output>
Gemm<Operand, Output> gemm(const Product& p, Guarded<Operand>& a, Guarded<Operand>& b, Guarded<Output>& bias,
                           Guarded<Output>& c) {
  return {.a = p.transpose_a ? a.matrix(p.k, p.m) : a.matrix(p.m, p.k),
          .transpose_a = p.transpose_a,
          .b = p.transpose_b ? b.matrix(p.n, p.k) : b.matrix(p.k, p.n),
          .transpose_b = p.transpose_b,
          .bias = p.with_bias ? Vector<const Output>(bias.vector()) : Vector<const Output>::none(),
          .c = c.matrix(p.m, p.n),
          .accumulate = p.accumulate};
}

constexpr Product kProducts[] = {{33, 17, 65, false, true, true, false}, {33, 17, 64, false, false, false, true},
                                 {31, 40, 33, true, false, false, true}, {16, 32, 48, false, true, true, true},
                                 {5, 7, 0, false, true, true, true},     {5, 7, 0, false, false, false, false},
                                 {1, 1, 1000, false, true, false, false}};

template <class Output>
void test_products() {
  for (const Product& p : kProducts) {
    CAPTURE(p.m, p.n, p.k, p.transpose_a, p.transpose_b, p.with_bias, p.accumulate);
    same_twice([&](Device& device) {
      Guarded<Bf16> a(p.m * p.k, 1), b(p.k * p.n, 3);
      Guarded<Output> bias(p.n, 5), c(p.m * p.n, 7);
      fill_random(a, 1);
      fill_random(b, 2);
      fill_random(bias, 3);
      fill_random(c, 4);
      const Numbers expected = expected_product(p, a, b, bias, c, [](double value) { return value; });
      run_from_host(device, gemm(p, a, b, bias, c));
      if constexpr (std::is_same_v<Output, Bf16>) {
        REQUIRE(worst_rounding(numbers(c), expected, 4) <= 1);
      } else {
        REQUIRE(worst_error(numbers(c), expected) <= 1e-5);
      }
      REQUIRE((a.intact() && b.intact() && bias.intact() && c.intact()));
      return numbers(c);
    });
  }
}

}  // namespace

TEST_CASE("products of bf16 are summed in fp32 and rounded once or not at all", "[bf16][gemm][device]") {
  test_products<Bf16>();
  test_products<float>();
}

TEST_CASE("tf32 rounds the factors of a product and nothing else", "[tf32][gemm][device]") {
  // To the nearest with 10 bits of fraction; which way ties go is the hardware's affair, and random numbers have none.
  const auto rounded = [](double value) {
    int exponent = 0;
    const double fraction = std::frexp(value, &exponent);
    return std::ldexp(std::round(fraction * 2048), exponent - 11);
  };
  Device device(DeviceKind::kCuda);
  for (const Product& p : kProducts) {
    CAPTURE(p.m, p.n, p.k, p.transpose_a, p.transpose_b);
    Guarded<float> a(p.m * p.k, 1), b(p.k * p.n, 3), bias(p.n, 5), c(p.m * p.n, 7);
    fill_random(a, 1);
    fill_random(b, 2);
    fill_random(bias, 3);
    fill_random(c, 4);
    const Numbers expected = expected_product(p, a, b, bias, c, rounded);
    const Numbers exact = expected_product(p, a, b, bias, c, [](double value) { return value; });
    Gemm<float> arguments = gemm(p, a, b, bias, c);
    arguments.tf32 = true;
    run_from_host(device, arguments);
    REQUIRE(worst_error(numbers(c), expected) <= 1e-5);
    REQUIRE((p.k == 0 || worst_error(numbers(c), exact) > 5e-5));
  }
  Guarded<Bf16> a(4), b(4), bias(2), c(4);
  Gemm<Bf16> arguments = gemm({2, 2, 2, false, false, false, false}, a, b, bias, c);
  arguments.tf32 = true;
  REQUIRE_THROWS_WITH(run_from_host(device, arguments), "bf16 numbers are not rounded to TF32");
  Guarded<float> wide(4), wide_bias(2);
  Gemm<float> on_cpu = gemm({2, 2, 2, false, false, false, false}, wide, wide, wide_bias, wide);
  on_cpu.tf32 = true;
  Device cpu;
  REQUIRE_THROWS_WITH(run(cpu, on_cpu), "the CPU does not round to TF32");
}

namespace {

struct LossCase {
  int64_t rows, items, columns;
  bool with_bias, gradients;
  int64_t most_tile_bytes = kMostLossTileBytes;
};

struct LossResults {
  Numbers dhidden, dtable, dbias;
  double loss = 0;
};

// The definition, in double; with `rounds`, dz and dhidden are rounded to bf16 as a plain version would.
LossResults expected_loss(const LossCase& options, const Numbers& hidden, const Numbers& table, const Numbers& bias,
                          const std::vector<int32_t>& targets, LossResults results, bool rounds) {
  const int64_t columns = options.columns;
  Numbers z(static_cast<size_t>(options.items));
  for (int64_t row = 0; row < options.rows; ++row) {
    double top = -INFINITY, sum = 0;
    for (int64_t item = 0; item < options.items; ++item) {
      z[item] = options.with_bias ? bias[item] : 0;
      for (int64_t c = 0; c < columns; ++c) z[item] += hidden[row * columns + c] * table[item * columns + c];
      top = std::max(top, z[item]);
    }
    for (double value : z) sum += std::exp(value - top);
    results.loss += std::log(sum) + top - z[targets[row]];
    if (!options.gradients) continue;
    for (int64_t item = 0; item < options.items; ++item) {
      double dz = std::exp(z[item] - top) / sum - (item == targets[row]);
      if (rounds) dz = rounded_to_bf16(dz);
      if (options.with_bias) results.dbias[item] += dz;
      for (int64_t c = 0; c < columns; ++c) {
        results.dhidden[row * columns + c] += dz * table[item * columns + c];
        results.dtable[item * columns + c] += dz * hidden[row * columns + c];
      }
    }
  }
  if (rounds) {
    for (double& value : results.dhidden) value = rounded_to_bf16(value);
  }
  return results;
}

Numbers test_loss(Device& device, const LossCase& options) {
  const auto [rows, items, columns, with_bias, gradients, most_tile_bytes] = options;
  CAPTURE(rows, items, columns, with_bias, gradients, most_tile_bytes);
  Guarded<Bf16> hidden(rows * columns, 1), table(items * columns, 3), dhidden(rows * columns, 1);
  Guarded<float> bias(items, 1), row_losses(rows, 1), dtable(items * columns, 5), dbias(items, 3);
  Guarded<int32_t> targets(rows, 1);
  Guarded<double> loss(1);
  fill_random(hidden, 1, -2, 2);
  fill_random(table, 2);
  fill_random(bias, 3, -2, 2);
  fill_random(dhidden, 4);
  fill_random(dtable, 5);
  fill_random(dbias, 6);
  for (int64_t row = 0; row < rows; ++row) targets[row] = static_cast<int32_t>(random_int(7, row, items));
  const LossResults start{.dhidden = numbers(dhidden), .dtable = numbers(dtable), .dbias = numbers(dbias)};
  const auto reference = [&](bool rounds) {
    return expected_loss(options, numbers(hidden), numbers(table), numbers(bias), targets.copy(), start, rounds);
  };
  const LossResults exact = reference(false), plain = reference(true);
  run_from_host(
      device, MaskedItemLoss<Bf16>{.hidden = hidden.matrix(rows, columns),
                                   .table = table.matrix(items, columns),
                                   .bias = with_bias ? Vector<const float>(bias.vector()) : Vector<const float>::none(),
                                   .targets = targets.vector(),
                                   .row_losses = row_losses.vector(),
                                   .loss = loss.vector(),
                                   .dhidden = gradients ? dhidden.matrix(rows, columns) : Matrix<Bf16>::none(),
                                   .dtable = gradients ? dtable.matrix(items, columns) : Matrix<float>::none(),
                                   .dbias = gradients && with_bias ? dbias.vector() : Vector<float>::none(),
                                   .most_tile_bytes = most_tile_bytes});
  REQUIRE(std::abs(loss[0] - exact.loss) <= 1e-5 * std::max(1.0, std::abs(exact.loss)));
  const auto require_close = [](const Numbers& actual, const Numbers& plain, const Numbers& exact) {
    REQUIRE(worst_error(actual, exact) <= 2 * worst_error(plain, exact) + 1e-5);
  };
  require_close(numbers(dhidden), plain.dhidden, exact.dhidden);
  require_close(numbers(dtable), plain.dtable, exact.dtable);
  require_close(numbers(dbias), plain.dbias, exact.dbias);
  REQUIRE((hidden.intact() && table.intact() && dhidden.intact() && bias.intact() && row_losses.intact() &&
           dtable.intact() && dbias.intact() && loss.intact()));
  Numbers all = {loss[0]};
  for (const Numbers& more : {numbers(dhidden), numbers(dtable), numbers(dbias)}) append(all, more);
  return all;
}

}  // namespace

TEST_CASE("the masked-item loss of bf16 has fp32 logits and is as exact as a plain version", "[bf16][device]") {
  constexpr int64_t kCutTile = int64_t{40} * 1024 * 6;
  REQUIRE(loss_tile<Bf16>(60, 2300, 96, false, kCutTile).items == 1024);
  for (const LossCase& options : {LossCase{0, 5, 4, true, true},
                                  {1, 1, 3, true, true},
                                  {33, 200, 65, true, true},
                                  {31, 33, 64, false, true},
                                  {1100, 45, 8, true, true},
                                  {20, 31, 16, true, false},
                                  {60, 2300, 96, true, true, kCutTile},
                                  {45, 2070, 96, false, false, kCutTile}}) {
    same_twice([&](Device& device) { return test_loss(device, options); });
  }
}

TEST_CASE("a kernel over bf16 is refused by the CPU", "[bf16]") {
  Device cpu;
  Guarded<Bf16> x(4), y(4);
  REQUIRE_THROWS_WITH(run(cpu, ActivationForward<Bf16>{Activation::kRelu, x.vector(), y.vector()}),
                      "bf16 kernels run on a GPU, not on the CPU");
}

}  // namespace itemloom::test

#endif
