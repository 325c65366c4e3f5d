#include "layers/ops.h"

#include <optional>

#include "kernels/attention.h"
#include "kernels/dropout.h"
#include "kernels/gemm.h"
#include "kernels/layer_norm.h"
#include "kernels/masked_item_loss.h"
#include "kernels/reduce.h"
#include "kernels/rows.h"

namespace itemloom::ops {
namespace {

// Calls body(T()) with T the type of what is stored.
template <class Body>
void with_type(NumberType type, Body body) {
  if (type == NumberType::kBf16) {
    body(Bf16());
  } else {
    body(float());
  }
}

void check_linear(const char* op, const Tensor& x, const LinearParameters& linear) {
  const auto& [weight, bias] = linear;
  CHECK(weight.rank() == 2 && x.rank() == 2 && x.columns() == weight.columns(), op, ": x is ", x.shape(),
        ", the weight is ", weight.shape());
  CHECK(bias.rank() == 1 && bias.size() == weight.rows(), op, ": the weight is ", weight.shape(), ", the bias is ",
        bias.shape());
}

// y = x W^T + bias, of checked arguments.
template <class T>
void multiply(Tape& tape, const Tensor& x, const LinearParameters& linear, Matrix<T> y) {
  run(tape.device(), Gemm<T>{.a = x.matrix<T>(),
                             .transpose_a = false,
                             .b = linear.weight.factor<T>(),
                             .transpose_b = true,
                             .bias = linear.bias.factor_vector<T>(),
                             .c = y,
                             .accumulate = false,
                             .tf32 = tape.uses_tf32()});
}

// What a gradient of x W^T gives x and W.
template <class T>
void add_factor_gradients(Tape& tape, Matrix<const T> dy, const Tensor& x, const Tensor& weight) {
  run(tape.device(), Gemm<T, float>{.a = dy,
                                    .transpose_a = true,
                                    .b = x.matrix<T>(),
                                    .transpose_b = false,
                                    .bias = Vector<const float>::none(),
                                    .c = tape.gradient_matrix(weight),
                                    .accumulate = true,
                                    .tf32 = tape.uses_tf32()});
  run(tape.device(), Gemm<T>{.a = dy,
                             .transpose_a = false,
                             .b = weight.factor<T>(),
                             .transpose_b = false,
                             .bias = Vector<const T>::none(),
                             .c = tape.gradient_matrix<T>(x),
                             .accumulate = true,
                             .tf32 = tape.uses_tf32()});
}

template <class T>
Matrix<const T> matrix_or_none(const std::optional<Tensor>& tensor) {
  return tensor ? Matrix<const T>(tensor->matrix<T>()) : Matrix<const T>::none();
}
template <class T>
Matrix<T> gradient_or_none(Tape& tape, const std::optional<Tensor>& tensor) {
  return tensor ? tape.gradient_matrix<T>(*tensor) : Matrix<T>::none();
}

// Dropout of checked arguments, plus the residual where there is one.
Tensor drop(Tape& tape, const Tensor& x, std::optional<Tensor> residual, Vector<const uint32_t> row_ids,
            float probability) {
  Tensor y = tape.matrix(x.rows(), x.columns());
  const DropoutKey key = tape.next_dropout();
  with_type(y.type(), [&]<class T>(T) {
    run(tape.device(), DropoutForward<T>{.x = x.matrix<T>(),
                                         .residual = matrix_or_none<T>(residual),
                                         .row_ids = row_ids,
                                         .probability = probability,
                                         .key = key,
                                         .y = y.matrix<T>()});
    tape.record({y}, {x, residual ? *residual : x}, [=](Tape& t) {
      run(t.device(), DropoutBackward<T>{.dy = t.gradient_matrix<T>(y),
                                         .row_ids = row_ids,
                                         .probability = probability,
                                         .key = key,
                                         .dx = t.gradient_matrix<T>(x),
                                         .dresidual = gradient_or_none<T>(t, residual)});
    });
  });
  return y;
}

// The norm of a sum, as the ops that have one in them launch it and undo it.
struct Norming {
  ResidualOptions added;
  DropoutKey key;
  NormParameters parameters;
  Tensor sum, y;  // `sum` may be an input
  Vector<float> mean, inverse_std;

  template <class T>
  void run_forward(Tape& tape, Matrix<const T> x, Matrix<T> sum_to_write) const {
    run(tape.device(), LayerNormForward<T>{.x = x,
                                           .residual = matrix_or_none<T>(added.residual),
                                           .row_ids = added.row_ids,
                                           .probability = added.dropout,
                                           .key = key,
                                           .gamma = parameters.gamma.vector(),
                                           .beta = parameters.beta.vector(),
                                           .epsilon = parameters.epsilon,
                                           .sum = sum_to_write,
                                           .y = y.matrix<T>(),
                                           .mean = mean,
                                           .inverse_std = inverse_std});
  }
  template <class T>
  void run_backward(Tape& tape, Matrix<const T> dsum, Matrix<T> dx, Vector<float> dbias) const {
    run(tape.device(), LayerNormBackward<T>{.dy = tape.gradient_matrix<T>(y),
                                            .dsum = dsum,
                                            .sum = sum.matrix<T>(),
                                            .gamma = parameters.gamma.vector(),
                                            .mean = mean,
                                            .inverse_std = inverse_std,
                                            .row_ids = added.row_ids,
                                            .probability = added.dropout,
                                            .key = key,
                                            .dx = dx,
                                            .dresidual = gradient_or_none<T>(tape, added.residual),
                                            .dbias = dbias,
                                            .dgamma = tape.gradient_vector(parameters.gamma),
                                            .dbeta = tape.gradient_vector(parameters.beta)});
  }
};

// For a sum of this shape. Refuses what does not fit, and drops nothing outside of training.
Norming new_norming(const char* op, Tape& tape, Tensor sum, ResidualOptions added, const NormParameters& parameters) {
  const auto& [gamma, beta, epsilon] = parameters;
  CHECK(sum.rank() == 2 && gamma.size() == sum.columns() && beta.size() == sum.columns(), op, ": x is ", sum.shape(),
        ", gamma ", gamma.shape(), ", beta ", beta.shape());
  const std::optional<Tensor>& residual = added.residual;
  CHECK(!residual || (sum.rows() == residual->rows() && sum.columns() == residual->columns()), op, ": x is ",
        sum.shape(), ", the residual is ", residual->shape());
  if (!tape.training()) added.dropout = 0;
  CHECK(added.dropout == 0 || added.row_ids.size() == sum.rows(), op, ": ", added.row_ids.size(), " row ids for x ",
        sum.shape());
  return {.added = added,
          .key = residual || added.dropout > 0 ? tape.next_dropout() : DropoutKey{},
          .parameters = parameters,
          .sum = sum,
          .y = tape.matrix(sum.rows(), sum.columns()),
          .mean = tape.keep<float>(sum.rows()),
          .inverse_std = tape.keep<float>(sum.rows())};
}

}  // namespace

Tensor embedding(Tape& tape, const Tensor& table, Vector<const int32_t> ids) {
  return embedding_bag(tape, table, ids, Vector<const int64_t>::none(), Vector<const float>::none(), BagMode::kSum);
}

Tensor embedding_bag(Tape& tape, const Tensor& table, Vector<const int32_t> ids, Vector<const int64_t> bag_offsets,
                     Vector<const float> weights, BagMode mode) {
  CHECK(table.rank() == 2, "embedding: the table is a matrix, not ", table.shape());
  CHECK(!weights || weights.size() == ids.size(), "embedding: ", weights.size(), " weights for ", ids.size(), " ids");
  const int64_t bags = bag_offsets ? bag_offsets.size() - 1 : ids.size();
  Tensor y = tape.matrix(bags, table.columns());
  with_type(y.type(), [&]<class T>(T) {
    run(tape.device(), EmbeddingBagForward<T>{.table = table.matrix(),
                                              .ids = ids,
                                              .bag_offsets = bag_offsets,
                                              .weights = weights,
                                              .mode = mode,
                                              .y = y.matrix<T>()});
    tape.record({y}, {table}, [=](Tape& t) {
      run(t.device(), EmbeddingBagBackward<T>{.dy = t.gradient_matrix<T>(y),
                                              .ids = ids,
                                              .bag_offsets = bag_offsets,
                                              .weights = weights,
                                              .mode = mode,
                                              .dtable = t.gradient_matrix(table)});
    });
  });
  return y;
}

Tensor linear(Tape& tape, const Tensor& x, const LinearParameters& linear) {
  check_linear("linear", x, linear);
  Tensor y = tape.matrix(x.rows(), linear.weight.rows());
  with_type(y.type(), [&]<class T>(T) {
    multiply(tape, x, linear, y.matrix<T>());
    tape.record({y}, {x, linear.weight, linear.bias}, [=](Tape& t) {
      const Matrix<T> dy = t.gradient_matrix<T>(y);
      run(t.device(), ColumnSum<T>{.x = dy, .y = t.gradient_vector(linear.bias)});
      add_factor_gradients<T>(t, dy, x, linear.weight);
    });
  });
  return y;
}

Tensor linear_activation(Tape& tape, const Tensor& x, const LinearParameters& linear, Activation kind) {
  check_linear("linear_activation", x, linear);
  Tensor y = tape.matrix(x.rows(), linear.weight.rows());
  with_type(y.type(), [&]<class T>(T) {
    const Vector<T> product = tape.keep<T>(y.size());
    const Matrix<T> product_rows(product.data(), y.rows(), y.columns());
    multiply(tape, x, linear, product_rows);
    run(tape.device(), ActivationForward<T>{.activation = kind, .x = product, .y = y.flat<T>()});
    tape.record({y}, {x, linear.weight, linear.bias}, [=](Tape& t) {
      const Matrix<T> gradient = t.gradient_matrix<T>(y);  // and then the product's
      run(t.device(), ActivationBackward<T>{.activation = kind,
                                            .dy = gradient,
                                            .x = product_rows,
                                            .dx = gradient,
                                            .dbias = t.gradient_vector(linear.bias)});
      add_factor_gradients<T>(t, gradient, x, linear.weight);
    });
  });
  return y;
}

Tensor add(Tape& tape, const Tensor& x, const Tensor& y) {
  CHECK(x.rows() == y.rows() && x.columns() == y.columns(), "add: x is ", x.shape(), ", y is ", y.shape());
  return drop(tape, x, y, Vector<const uint32_t>::none(), 0);
}

Tensor dropout(Tape& tape, const Tensor& x, Vector<const uint32_t> row_ids, float probability) {
  if (!tape.training() || probability == 0) return x;
  CHECK(row_ids.size() == x.rows(), "dropout: ", row_ids.size(), " row ids for x ", x.shape());
  return drop(tape, x, std::nullopt, row_ids, probability);
}

Tensor layer_norm(Tape& tape, const Tensor& x, const NormParameters& norm) {
  const ResidualOptions nothing{.residual = std::nullopt, .row_ids = Vector<const uint32_t>::none(), .dropout = 0};
  const Norming norming = new_norming("layer_norm", tape, x, nothing, norm);
  with_type(norming.y.type(), [&]<class T>(T) {
    norming.run_forward<T>(tape, x.matrix<T>(), Matrix<T>::none());
    tape.record({norming.y}, {x, norm.gamma, norm.beta}, [=](Tape& t) {
      norming.run_backward<T>(t, Matrix<const T>::none(), t.gradient_matrix<T>(x), Vector<float>::none());
    });
  });
  return norming.y;
}

SumAndNorm dropout_add_norm(Tape& tape, const Tensor& x, const ResidualOptions& added, const NormParameters& norm) {
  if (!added.residual && (added.dropout == 0 || !tape.training())) {
    return {.sum = x, .norm = layer_norm(tape, x, norm)};
  }
  const Tensor sum = tape.matrix(x.rows(), x.columns());
  const Norming norming = new_norming("dropout_add_norm", tape, sum, added, norm);
  with_type(sum.type(), [&]<class T>(T) {
    norming.run_forward<T>(tape, x.matrix<T>(), sum.matrix<T>());
    tape.record({sum, norming.y}, {x, added.residual.value_or(x), norm.gamma, norm.beta}, [=](Tape& t) {
      norming.run_backward<T>(t, t.gradient_matrix_if_any<T>(sum), t.gradient_matrix<T>(x), Vector<float>::none());
    });
  });
  return {.sum = sum, .norm = norming.y};
}

SumAndNorm linear_dropout_add_norm(Tape& tape, const Tensor& x, const LinearParameters& linear,
                                   const ResidualOptions& added, const NormParameters& norm) {
  check_linear("linear_dropout_add_norm", x, linear);
  const Tensor sum = tape.matrix(x.rows(), linear.weight.rows());
  const Norming norming = new_norming("linear_dropout_add_norm", tape, sum, added, norm);
  with_type(sum.type(), [&]<class T>(T) {
    multiply(tape, x, linear, sum.matrix<T>());
    norming.run_forward<T>(tape, sum.matrix<T>(), sum.matrix<T>());
    tape.record({sum, norming.y}, {x, linear.weight, linear.bias, added.residual.value_or(x), norm.gamma, norm.beta},
                [=](Tape& t) {
                  const Matrix<T> gradient = t.gradient_matrix<T>(norming.y);  // and then the product's
                  norming.run_backward<T>(t, t.gradient_matrix_if_any<T>(sum), gradient,
                                          t.gradient_vector(linear.bias));
                  add_factor_gradients<T>(t, gradient, x, linear.weight);
                });
  });
  return {.sum = sum, .norm = norming.y};
}

Tensor self_attention(Tape& tape, const Tensor& qkv, Vector<const int64_t> sequence_offsets,
                      Vector<const int64_t> query_rows, Vector<const uint32_t> row_ids,
                      const AttentionOptions& options) {
  const int64_t width = qkv.columns() / 3;
  CHECK(qkv.rank() == 2 && qkv.columns() % 3 == 0 && width % options.heads == 0, "self_attention: qkv is ", qkv.shape(),
        " for ", options.heads, " heads");
  CHECK(sequence_offsets.size() > 0, "self_attention: no sequence offsets");
  const float probability = tape.training() ? options.dropout : 0;
  CHECK(probability == 0 || row_ids.size() == qkv.rows(), "self_attention: ", row_ids.size(), " row ids for qkv ",
        qkv.shape());
  const int64_t queries = query_rows ? query_rows.size() : qkv.rows();
  Tensor y = tape.matrix(queries, width);
  const Vector<float> kept = tape.keep<float>(options.heads * queries);
  const Matrix<float> log_sum_exp(kept.data(), options.heads, queries);
  const DropoutKey key = tape.next_dropout(static_cast<uint32_t>(options.heads));
  with_type(y.type(), [&]<class T>(T) {
    run(tape.device(), AttentionForward<T>{.qkv = qkv.matrix<T>(),
                                           .sequence_offsets = sequence_offsets,
                                           .query_rows = query_rows,
                                           .row_ids = row_ids,
                                           .heads = options.heads,
                                           .causal = options.causal,
                                           .dropout = probability,
                                           .key = key,
                                           .y = y.matrix<T>(),
                                           .log_sum_exp = log_sum_exp});
    tape.record({y}, {qkv}, [=](Tape& t) {
      run(t.device(), AttentionBackward<T>{.qkv = qkv.matrix<T>(),
                                           .sequence_offsets = sequence_offsets,
                                           .query_rows = query_rows,
                                           .row_ids = row_ids,
                                           .heads = options.heads,
                                           .causal = options.causal,
                                           .dropout = probability,
                                           .key = key,
                                           .y = y.matrix<T>(),
                                           .log_sum_exp = log_sum_exp,
                                           .dy = t.gradient_matrix<T>(y),
                                           .dqkv = t.gradient_matrix<T>(qkv)});
    });
  });
  return y;
}

Tensor gather_rows(Tape& tape, const Tensor& x, Vector<const int64_t> indices) {
  Tensor y = tape.matrix(indices.size(), x.columns());
  with_type(y.type(), [&]<class T>(T) {
    run(tape.device(), GatherRows<T>{.x = x.matrix<T>(), .indices = indices, .y = y.matrix<T>()});
    tape.record({y}, {x}, [=](Tape& t) {
      run(t.device(),
          ScatterAddRows<T>{.dy = t.gradient_matrix<T>(y), .indices = indices, .dx = t.gradient_matrix<T>(x)});
    });
  });
  return y;
}

Vector<double> masked_item_loss(Tape& tape, const Tensor& hidden, const Tensor& table, const Tensor* bias,
                                int64_t items, Vector<const int32_t> targets) {
  CHECK(hidden.columns() == table.columns() && items <= table.rows(), "masked_item_loss: hidden is ", hidden.shape(),
        ", the table ", table.shape(), " for ", items, " items");
  CHECK(targets.size() == hidden.rows(), "masked_item_loss: ", targets.size(), " targets for hidden ", hidden.shape());
  CHECK(!bias || bias->size() == items, "masked_item_loss: the bias is ", bias->shape(), " for ", items, " items");
  const Vector<double> loss = tape.keep<double>(1);
  const bool gradients = tape.training();
  tape.record_loss({hidden, table, bias ? *bias : table});
  with_type(hidden.type(), [&]<class T>(T) {
    run(tape.device(),
        MaskedItemLoss<T>{.hidden = hidden.matrix<T>(),
                          .table = table.factor<T>().slice(0, items),
                          .bias = bias ? Vector<const float>(bias->vector()) : Vector<const float>::none(),
                          .targets = targets,
                          .row_losses = tape.keep<float>(targets.size()),
                          .loss = loss,
                          .dhidden = gradients ? tape.gradient_matrix<T>(hidden) : Matrix<T>::none(),
                          .dtable = gradients ? tape.gradient_matrix(table).slice(0, items) : Matrix<float>::none(),
                          .dbias = gradients && bias ? tape.gradient_vector(*bias) : Vector<float>::none(),
                          .tf32 = tape.uses_tf32()});
  });
  return loss;
}

}  // namespace itemloom::ops
