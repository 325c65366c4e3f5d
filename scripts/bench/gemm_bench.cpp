// The matrix products of a training step: T = 27,630 tokens is a batch of 256 long sequences, 1,720 one of short ones.
#include <memory>
#include <string>

#include "kernels/gemm.h"
#include "scripts/bench/bench.h"

namespace itemloom::bench {
namespace {

enum class Kind { kForward, kInputGradient, kWeightGradient };

struct Product {
  Product(Kind kind, int64_t m, int64_t n, int64_t k)
      : kind(kind),
        m(m),
        n(n),
        k(k),
        a(random_floats(arena, m * k, 1)),
        b(random_floats(arena, k * n, 2)),
        bias(random_floats(arena, n, 3)),
        c(random_floats(arena, m * n, 4)) {}

  void run() {
    const bool transpose_a = kind == Kind::kWeightGradient, transpose_b = kind == Kind::kForward;
    itemloom::run(
        device, Gemm<float>{.a = transpose_a ? Matrix<const float>(a, k, m) : Matrix<const float>(a, m, k),
                            .transpose_a = transpose_a,
                            .b = transpose_b ? Matrix<const float>(b, n, k) : Matrix<const float>(b, k, n),
                            .transpose_b = transpose_b,
                            .bias = kind == Kind::kForward ? Vector<const float>(bias, n) : Vector<const float>::none(),
                            .c = Matrix<float>(c, m, n),
                            .accumulate = kind != Kind::kForward});
  }

  Kind kind;
  int64_t m, n, k;
  Device device;
  Arena arena;
  float *a, *b, *bias, *c;
};

void add(Suite& suite, const std::string& name, Kind kind, int64_t m, int64_t n, int64_t k) {
  suite.add({.name = "gemm/" + name + "/" + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k),
             .flops = 2.0 * static_cast<double>(m * n * k),
             .prepare = [=]() -> std::function<void()> {
               auto product = std::make_shared<Product>(kind, m, n, k);
               return [product] { product->run(); };
             }});
}

void list_benches(Suite& suite) {
  for (int64_t tokens : {27630, 1720}) {
    for (int64_t width : {64, 128}) {
      add(suite, "forward", Kind::kForward, tokens, width, width);
      add(suite, "forward", Kind::kForward, tokens, 3 * width, width);
      add(suite, "forward", Kind::kForward, tokens, 4 * width, width);
      add(suite, "forward", Kind::kForward, tokens, width, 4 * width);
      add(suite, "input_gradient", Kind::kInputGradient, tokens, width, width);
      add(suite, "input_gradient", Kind::kInputGradient, tokens, width, 3 * width);
      add(suite, "input_gradient", Kind::kInputGradient, tokens, 4 * width, width);
      add(suite, "input_gradient", Kind::kInputGradient, tokens, width, 4 * width);
      add(suite, "weight_gradient", Kind::kWeightGradient, width, width, tokens);
      add(suite, "weight_gradient", Kind::kWeightGradient, 3 * width, width, tokens);
      add(suite, "weight_gradient", Kind::kWeightGradient, 4 * width, width, tokens);
      add(suite, "weight_gradient", Kind::kWeightGradient, width, 4 * width, tokens);
    }
  }
  add(suite, "scores", Kind::kForward, 512, 3416, 64);
  add(suite, "scores", Kind::kForward, 256, 12101, 128);
}

const Registration kRegistration(list_benches);

}  // namespace
}  // namespace itemloom::bench
