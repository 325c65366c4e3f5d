// What a training step does between its matrix products, at the sizes of a batch of 256 long sequences (27,630 tokens;
// larger than the caches) and of short ones (1,720): all of it bound by memory, so shown as bytes against the triad.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "kernels/activation.h"
#include "kernels/dropout.h"
#include "kernels/layer_norm.h"
#include "kernels/optimizer_step.h"
#include "kernels/reduce.h"
#include "scripts/bench/bench.h"

namespace itemloom::bench {
namespace {

struct State {
  State(int64_t rows, int64_t columns) : rows(rows), columns(columns), row_ids(static_cast<size_t>(rows)) {
    for (float*& buffer : buffers) buffer = random_floats(arena, rows * columns, ++seed);
    for (float*& vector : vectors) vector = random_floats(arena, std::max(rows, columns), ++seed);
    for (float& value : flat(3)) value = std::abs(value);  // Adam's second moment
    std::iota(row_ids.begin(), row_ids.end(), 0);
  }
  Matrix<float> matrix(int which) const { return Matrix<float>(buffers[which], rows, columns); }
  Vector<float> flat(int which) const { return Vector<float>(buffers[which], rows * columns); }
  Vector<float> row_vector(int which) const { return Vector<float>(vectors[which], columns); }
  Vector<float> column_vector(int which) const { return Vector<float>(vectors[which], rows); }
  Vector<const uint32_t> ids() const { return Vector<const uint32_t>(row_ids.data(), rows); }

  int64_t rows, columns;
  Device device;
  Arena arena;
  uint32_t seed = 0;
  float *buffers[5], *vectors[6];
  std::vector<uint32_t> row_ids;
};

// `floats` are the floats moved for each element.
void add(Suite& suite, const std::string& name, int64_t rows, int64_t columns, double floats, void (*body)(State&)) {
  suite.add({.name = name + "/" + std::to_string(rows) + "x" + std::to_string(columns),
             .bytes = floats * sizeof(float) * static_cast<double>(rows * columns),
             .prepare = [=]() -> std::function<void()> {
               auto state = std::make_shared<State>(rows, columns);
               return [state, body] { body(*state); };
             }});
}

// kSums: of a residual and what dropout leaves of a product, as between sub-layers.
template <bool kSums>
void layer_norm_forward(State& s) {
  run(s.device, LayerNormForward<float>{.x = s.matrix(0),
                                        .residual = kSums ? s.matrix(1) : Matrix<float>::none(),
                                        .row_ids = s.ids(),
                                        .probability = kSums ? 0.1f : 0,
                                        .key = {1, 2, 3},
                                        .gamma = s.row_vector(0),
                                        .beta = s.row_vector(1),
                                        .epsilon = 1e-5f,
                                        .sum = kSums ? s.matrix(2) : Matrix<float>::none(),
                                        .y = s.matrix(3),
                                        .mean = s.column_vector(2),
                                        .inverse_std = s.column_vector(3)});
}
template <bool kSums>
void layer_norm_backward(State& s) {
  run(s.device, LayerNormBackward<float>{.dy = s.matrix(0),
                                         .dsum = kSums ? s.matrix(3) : Matrix<float>::none(),
                                         .sum = s.matrix(1),
                                         .gamma = s.row_vector(0),
                                         .mean = s.column_vector(2),
                                         .inverse_std = s.column_vector(3),
                                         .row_ids = s.ids(),
                                         .probability = kSums ? 0.1f : 0,
                                         .key = {1, 2, 3},
                                         .dx = s.matrix(2),
                                         .dresidual = kSums ? s.matrix(4) : Matrix<float>::none(),
                                         .dbias = kSums ? s.row_vector(1) : Vector<float>::none(),
                                         .dgamma = s.row_vector(4),
                                         .dbeta = s.row_vector(5)});
}
template <Activation kActivation>
void activation_forward(State& s) {
  run(s.device, ActivationForward<float>{.activation = kActivation, .x = s.flat(0), .y = s.flat(1)});
}
template <Activation kActivation>
void activation_backward(State& s) {
  run(s.device,
      ActivationBackward<float>{
          .activation = kActivation, .dy = s.matrix(0), .x = s.matrix(1), .dx = s.matrix(2), .dbias = s.row_vector(0)});
}
void add_rows(State& s) {
  run(s.device, DropoutForward<float>{.x = s.matrix(0),
                                      .residual = s.matrix(1),
                                      .row_ids = s.ids(),
                                      .probability = 0,
                                      .key = {1, 2, 3},
                                      .y = s.matrix(2)});
}
void dropout(State& s) {
  run(s.device, DropoutForward<float>{.x = s.matrix(0),
                                      .residual = Matrix<float>::none(),
                                      .row_ids = s.ids(),
                                      .probability = 0.1f,
                                      .key = {1, 2, 3},
                                      .y = s.matrix(2)});
}
void bias_gradient(State& s) {
  run(s.device, ColumnSum<float>{.x = s.matrix(0), .y = s.row_vector(0)});
}
void sum_of_squares(State& s) {
  std::vector<double> partials(static_cast<size_t>(block_count(s.flat(0).size(), kSumOfSquaresBlock)));
  run(s.device, SumOfSquares{.x = s.flat(0), .partials = Vector<double>(partials.data(), partials.size())});
}
constexpr int64_t kFromTheFirst = 0;
// Not decoupled, which gives a gradient in every run: moments that fade away would be denormal.
void adam(State& s) {
  StepDecision decision;
  decision.gradient_scale = 1;
  decision.inverse_correction1 = 10;
  decision.inverse_correction2 = 1000;
  run(s.device, AdamStep{.value = s.flat(0),
                         .gradient = s.flat(1),
                         .first_moment = s.flat(2),
                         .second_moment = s.flat(3),
                         .decision = Vector<const StepDecision>(&decision, 1),
                         .learning_rate = 1e-3f,
                         .beta1 = 0.9f,
                         .beta2 = 0.999f,
                         .epsilon = 1e-8f,
                         .weight_decay = 0.01f,
                         .decay_switches = Vector<const int64_t>(&kFromTheFirst, 1),
                         .decoupled = false});
}

void list_benches(Suite& suite) {
  for (int64_t rows : {27630, 1720}) {
    for (int64_t columns : {64, 256}) {
      add(suite, "layer_norm/forward", rows, columns, 2, layer_norm_forward<false>);
      add(suite, "layer_norm/backward", rows, columns, 4, layer_norm_backward<false>);
      add(suite, "dropout_add_norm/forward", rows, columns, 4, layer_norm_forward<true>);
      add(suite, "dropout_add_norm/backward", rows, columns, 6, layer_norm_backward<true>);
      add(suite, "gelu_erf/forward", rows, columns, 2, activation_forward<Activation::kGeluErf>);
      add(suite, "gelu_erf/backward", rows, columns, 3, activation_backward<Activation::kGeluErf>);
      add(suite, "gelu_tanh/forward", rows, columns, 2, activation_forward<Activation::kGeluTanh>);
      add(suite, "gelu_tanh/backward", rows, columns, 3, activation_backward<Activation::kGeluTanh>);
      add(suite, "add", rows, columns, 3, add_rows);
      add(suite, "dropout", rows, columns, 2, dropout);
      add(suite, "bias_gradient", rows, columns, 1, bias_gradient);
      add(suite, "sum_of_squares", rows, columns, 1, sum_of_squares);
      add(suite, "adam", rows, columns, 8, adam);
    }
  }
}

const Registration kRegistration(list_benches);

}  // namespace
}  // namespace itemloom::bench
