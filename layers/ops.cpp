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

// y = x W^T + bias, of checked arguments.
template <class T>
void multiply(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, Matrix<T> y) {
  run(tape.device(), Gemm<T>{.a = x.matrix<T>(),
                             .transpose_a = false,
                             .b = weight.factor<T>(),
                             .transpose_b = true,
                             .bias = bias.factor_vector<T>(),
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

void check_linear(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  CHECK(weight.rank() == 2 && x.rank() == 2 && x.columns() == weight.columns(), op, ": x is ", x.shape(),
        ", the weight is ", weight.shape());
  CHECK(bias.rank() == 1 && bias.size() == weight.rows(), op, ": the weight is ", weight.shape(), ", the bias is ",
        bias.shape());
}

void check_norm(const char* op, const Tensor& x, const NormParameters& norm) {
  CHECK(x.rank() == 2 && norm.gamma.size() == x.columns() && norm.beta.size() == x.columns(), op, ": x is ", x.shape(),
        ", gamma ", norm.gamma.shape(), ", beta ", norm.beta.shape());
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

// layer_norm() and dropout_add_norm() of checked arguments.
SumAndNorm normalise(Tape& tape, const Tensor& x, std::optional<Tensor> residual, const DropoutOptions& dropout,
                     const NormParameters& norm) {
  const bool sums = residual || dropout.probability > 0;  // else the sum is x, an input
  const Tensor sum = sums ? tape.matrix(x.rows(), x.columns()) : x, y = tape.matrix(x.rows(), x.columns());
  const DropoutKey key = sums ? tape.next_dropout() : DropoutKey{};
  const Vector<float> mean = tape.keep<float>(x.rows()), inverse_std = tape.keep<float>(x.rows());
  with_type(y.type(), [&]<class T>(T) {
    run(tape.device(), LayerNormForward<T>{.x = x.matrix<T>(),
                                           .residual = matrix_or_none<T>(residual),
                                           .row_ids = dropout.row_ids,
                                           .probability = dropout.probability,
                                           .key = key,
                                           .gamma = norm.gamma.vector(),
                                           .beta = norm.beta.vector(),
                                           .epsilon = norm.epsilon,
                                           .sum = sums ? sum.matrix<T>() : Matrix<T>::none(),
                                           .y = y.matrix<T>(),
                                           .mean = mean,
                                           .inverse_std = inverse_std});
    const auto undo = [=](Tape& t) {
      run(t.device(), LayerNormBackward<T>{.dy = t.gradient_matrix<T>(y),
                                           .dsum = sums ? t.gradient_matrix_if_any<T>(sum) : Matrix<T>::none(),
                                           .sum = sum.matrix<T>(),
                                           .gamma = norm.gamma.vector(),
                                           .mean = mean,
                                           .inverse_std = inverse_std,
                                           .row_ids = dropout.row_ids,
                                           .probability = dropout.probability,
                                           .key = key,
                                           .dx = t.gradient_matrix<T>(x),
                                           .dresidual = gradient_or_none<T>(t, residual),
                                           .dgamma = t.gradient_vector(norm.gamma),
                                           .dbeta = t.gradient_vector(norm.beta)});
    };
    const std::initializer_list<Tensor> inputs = {x, residual ? *residual : x, norm.gamma, norm.beta};
    sums ? tape.record({sum, y}, inputs, undo) : tape.record({y}, inputs, undo);
  });
  return {.sum = sum, .norm = y};
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

Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_linear("linear", x, weight, bias);
  Tensor y = tape.matrix(x.rows(), weight.rows());
  with_type(y.type(), [&]<class T>(T) {
    multiply(tape, x, weight, bias, y.matrix<T>());
    tape.record({y}, {x, weight, bias}, [=](Tape& t) {
      const Matrix<T> dy = t.gradient_matrix<T>(y);
      run(t.device(), ColumnSum<T>{.x = dy, .y = t.gradient_vector(bias)});
      add_factor_gradients<T>(t, dy, x, weight);
    });
  });
  return y;
}

Tensor linear_activation(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias, Activation kind) {
  check_linear("linear_activation", x, weight, bias);
  Tensor y = tape.matrix(x.rows(), weight.rows());
  with_type(y.type(), [&]<class T>(T) {
    const Matrix<T> product(tape.keep<T>(y.size()).data(), y.rows(), y.columns());
    multiply(tape, x, weight, bias, product);
    run(tape.device(), ActivationForward<T>{
                           .activation = kind, .x = Vector<const T>(product.data(), product.size()), .y = y.flat<T>()});
    tape.record({y}, {x, weight, bias}, [=](Tape& t) {
      const Matrix<T> gradient = t.gradient_matrix<T>(y);
      run(t.device(),
          ActivationBackward<T>{
              .activation = kind, .dy = gradient, .x = product, .dx = gradient, .dbias = t.gradient_vector(bias)});
      add_factor_gradients<T>(t, gradient, x, weight);
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
  check_norm("layer_norm", x, norm);
  return normalise(tape, x, std::nullopt, {.row_ids = Vector<const uint32_t>::none(), .probability = 0}, norm).norm;
}

SumAndNorm dropout_add_norm(Tape& tape, const Tensor& x, std::optional<Tensor> residual, const DropoutOptions& dropout,
                            const NormParameters& norm) {
  CHECK(!residual || (x.rows() == residual->rows() && x.columns() == residual->columns()), "dropout_add_norm: x is ",
        x.shape(), ", the residual is ", residual->shape());
  check_norm("dropout_add_norm", x, norm);
  const float probability = tape.training() ? dropout.probability : 0;
  CHECK(probability == 0 || dropout.row_ids.size() == x.rows(), "dropout_add_norm: ", dropout.row_ids.size(),
        " row ids for x ", x.shape());
  return normalise(tape, x, residual, {.row_ids = dropout.row_ids, .probability = probability}, norm);
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
