// Matrix products against a naive double reference: transpositions, tails, thread counts, rows, accumulation.
#include "kernels/gemm.h"

#include <algorithm>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom::test {
namespace {

struct Shape {
  int64_t m, n, k;
};

// Operands of one product at odd addresses, C filled with something to add into.
struct Problem {
  Problem(Shape shape, bool transpose_a, bool transpose_b, bool with_bias, bool accumulate)
      : shape(shape),
        transpose_a(transpose_a),
        transpose_b(transpose_b),
        with_bias(with_bias),
        accumulate(accumulate),
        a(shape.m * shape.k, 1),
        b(shape.k * shape.n, 3),
        bias(shape.n, 5),
        c(shape.m * shape.n, 7) {
    fill_random(a, 1);
    fill_random(b, 2);
    fill_random(bias, 3);
    fill_random(c, 4);
  }

  Gemm<float> arguments() {
    const auto [m, n, k] = shape;
    return Gemm<float>{.a = transpose_a ? a.matrix(k, m) : a.matrix(m, k),
                       .transpose_a = transpose_a,
                       .b = transpose_b ? b.matrix(n, k) : b.matrix(k, n),
                       .transpose_b = transpose_b,
                       .bias = with_bias ? Vector<const float>(bias.vector()) : Vector<const float>::none(),
                       .c = c.matrix(m, n),
                       .accumulate = accumulate};
  }

  // Naively, in the order of k; Number is double for the reference, float for the error a plain loop would make.
  template <class Number>
  std::vector<double> expected() {
    const auto [m, n, k] = shape;
    std::vector<double> result(m * n);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        Number sum = accumulate ? c[i * n + j] : 0;
        if (with_bias) sum += bias[j];
        for (int64_t p = 0; p < k; ++p) {
          sum += Number(transpose_a ? a[p * m + i] : a[i * k + p]) * Number(transpose_b ? b[j * k + p] : b[p * n + j]);
        }
        result[i * n + j] = sum;
      }
    }
    return result;
  }

  bool intact() { return a.intact() && b.intact() && bias.intact() && c.intact(); }

  Shape shape;
  bool transpose_a, transpose_b, with_bias, accumulate;
  Guarded<float> a, b, bias, c;
};

struct Transposition {
  bool a, b;
};
constexpr Transposition kTranspositions[] = {{false, false}, {false, true}, {true, false}};

void verify(Device& device, Shape shape, Transposition transposition, bool with_bias, bool accumulate) {
  CAPTURE(shape.m, shape.n, shape.k, transposition.a, transposition.b, with_bias, accumulate);
  Problem problem(shape, transposition.a, transposition.b, with_bias, accumulate);
  const std::vector<double> expected = problem.expected<double>();
  const double plain_error = worst_error(problem.expected<float>(), expected);
  run_from_host(device, problem.arguments());
  REQUIRE(worst_error(problem.c.copy(), expected) <= 2 * plain_error + 5e-7);
  REQUIRE(problem.intact());
}

std::vector<float> result(Device& device, Shape shape, Transposition transposition) {
  Problem problem(shape, transposition.a, transposition.b, false, true);
  run_from_host(device, problem.arguments());
  REQUIRE(problem.intact());
  return problem.c.copy();
}

std::vector<float> result(Shape shape, Transposition transposition, int threads) {
  Threads scope(threads);
  Device device;
  return result(device, shape, transposition);
}

}  // namespace

TEST_CASE("gemm agrees with the double reference at odd shapes", "[gemm][device]") {
  on_every_device([](Device& device) {
    const auto extents = by_device<std::vector<int64_t>>(device, {1, 3, 31, 33, 65}, {1, 31, 33});
    const auto depths = by_device<std::vector<int64_t>>(device, {0, 1, 3, 31, 33, 65}, {0, 1, 33});
    for (Transposition transposition : kTranspositions) {
      for (int64_t m : extents) {
        for (int64_t n : extents) {
          for (int64_t k : depths) {
            verify(device, {m, n, k}, transposition, false, false);
            verify(device, {m, n, k}, transposition, true, true);
          }
        }
      }
    }
  });
}

TEST_CASE("gemm agrees with the double reference for every height of a micro-tile", "[gemm]") {
  Device device;
  for (Transposition transposition : kTranspositions) {
    for (int64_t m = 1; m <= 30; ++m) verify(device, {m, 34, 5}, transposition, true, false);
  }
}

TEST_CASE("gemm agrees with the double reference across blocks, groups and tasks", "[gemm][device]") {
  on_every_device([](Device& device) {
    const auto depths = by_device<std::vector<int64_t>>(device, {255, 256, 257, 511, 513, 1025, 2049}, {257, 2049});
    for (Transposition transposition : kTranspositions) {
      for (int64_t k : depths) verify(device, {33, 65, k}, transposition, true, true);
      verify(device, {170, 1030, 40}, transposition, true, true);
      verify(device, {513, 130, 300}, transposition, false, true);
      verify(device, {200, 67, 1300}, transposition, true, false);
    }
  });
}

TEST_CASE("gemm with an extent of zero writes bias, zero or nothing", "[gemm][device]") {
  on_every_device([](Device& device) {
    for (Transposition transposition : kTranspositions) {
      for (bool bias : {false, true}) {
        for (bool accumulate : {false, true}) {
          verify(device, {0, 5, 3}, transposition, bias, accumulate);
          verify(device, {5, 0, 3}, transposition, bias, accumulate);
          verify(device, {5, 40, 0}, transposition, bias, accumulate);
          verify(device, {0, 0, 0}, transposition, bias, accumulate);
        }
      }
    }
  });
}

TEST_CASE("gemm gives the same bits in every run", "[gemm][device]") {
  on_every_device([](Device& device) {
    for (Transposition transposition : kTranspositions) {
      const Shape shape{64, 70, 1001};
      REQUIRE(same_bits(result(device, shape, transposition), result(device, shape, transposition)));
    }
  });
}

TEST_CASE("gemm gives the same bits for any number of threads", "[gemm]") {
  for (Transposition transposition : kTranspositions) {
    for (Shape shape : {Shape{190, 70, 65}, Shape{64, 64, 3001}, Shape{300, 1100, 33}}) {
      CAPTURE(shape.m, shape.n, shape.k, transposition.a, transposition.b);
      const std::vector<float> one = result(shape, transposition, 1);
      REQUIRE(same_bits(one, result(shape, transposition, 2)));
      REQUIRE(same_bits(one, result(shape, transposition, 3)));
    }
  }
}

TEST_CASE("a row of a gemm has the same bits whatever other rows are in the call", "[gemm]") {
  Device device;
  for (bool transpose_b : {false, true}) {
    const Shape shape{200, 67, 515};
    Problem whole(shape, false, transpose_b, true, true);
    Problem part(shape, false, transpose_b, true, true);
    run(device, whole.arguments());
    for (int64_t first : {0, 1, 84, 113}) {
      for (int64_t rows : {1, 6, 14, 29, 87}) {
        CAPTURE(first, rows, transpose_b);
        fill_random(part.c, 4);
        Gemm<float> arguments = part.arguments();
        arguments.a = arguments.a.slice(first, rows);
        arguments.c = arguments.c.slice(first, rows);
        run(device, arguments);
        const float* expected = whole.c.data() + first * shape.n;
        REQUIRE(same_bits(std::vector<float>(arguments.c.begin(), arguments.c.end()),
                          std::vector<float>(expected, expected + rows * shape.n)));
      }
    }
  }
}

TEST_CASE("an element of a weight gradient has the same bits in a C of any size", "[gemm]") {
  Device device;
  const Shape large{150, 300, 1500}, small{40, 50, 1500};
  Problem whole(large, true, false, false, false), part(small, true, false, false, false);
  for (int64_t p = 0; p < large.k; ++p) {
    std::copy_n(whole.a.data() + p * large.m + 7, small.m, part.a.data() + p * small.m);
    std::copy_n(whole.b.data() + p * large.n + 130, small.n, part.b.data() + p * small.n);
  }
  run(device, whole.arguments());
  run(device, part.arguments());
  for (int64_t i = 0; i < small.m; ++i) {
    for (int64_t j = 0; j < small.n; ++j) {
      REQUIRE(part.c[i * small.n + j] == whole.c[(i + 7) * large.n + j + 130]);
    }
  }
}

TEST_CASE("gemm refuses two transposed matrices", "[gemm][device]") {
  on_every_device([](Device& device) {
    Problem problem({3, 4, 5}, true, true, false, false);
    REQUIRE_THROWS_AS(run_from_host(device, problem.arguments()), Error);
  });
}

TEST_CASE("gemm lets NaN and infinity through only where they take part", "[gemm][device]") {
  on_every_device([](Device& device) {
    for (Transposition transposition : kTranspositions) {
      Problem problem({40, 40, 40}, transposition.a, transposition.b, false, false);
      problem.c[0] = std::nanf("");  // overwritten, not multiplied by zero
      problem.a[transposition.a ? 3 : 3 * 40] = std::numeric_limits<float>::infinity();
      run_from_host(device, problem.arguments());
      for (int64_t i = 0; i < 40; ++i) {
        for (int64_t j = 0; j < 40; ++j) REQUIRE(std::isfinite(problem.c[i * 40 + j]) == (i != 3));
      }
    }
  });
}

}  // namespace itemloom::test
