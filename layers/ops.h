// The differentiable ops. Each checks shapes, takes its output from the step's arena, launches its kernel and records
// how to undo it; every backward adds into gradients that started at zero. Layers are compositions of these and know no
// derivative.
#pragma once

#include <optional>

#include "core/tape.h"
#include "kernels/activation.h"
#include "kernels/embedding_bag.h"

namespace itemloom::ops {

// Table rows by id: (ids) of a (R, C) table -> (ids, C).
Tensor embedding(Tape& tape, const Tensor& table, Vector<const int32_t> ids);

// The sum or mean of table rows a bag (kernels/embedding_bag.h): -> (bags, C).
Tensor embedding_bag(Tape& tape, const Tensor& table, Vector<const int32_t> ids, Vector<const int64_t> bag_offsets,
                     Vector<const float> weights, BagMode mode);

struct LinearParameters {
  Tensor weight, bias;  // (O, I), (O)
};
// x W^T + bias: x (N, I) -> (N, O).
Tensor linear(Tape& tape, const Tensor& x, const LinearParameters& linear);

// kind(x W^T + bias). The gradient of the product takes the memory of that of the output.
Tensor linear_activation(Tape& tape, const Tensor& x, const LinearParameters& linear, Activation kind);

// x + y, same shapes.
Tensor add(Tape& tape, const Tensor& x, const Tensor& y);

// Dropout with masks named by global row ids; the identity outside of training.
Tensor dropout(Tape& tape, const Tensor& x, Vector<const uint32_t> row_ids, float probability);

struct NormParameters {
  Tensor gamma, beta;  // (C)
  float epsilon;
};
// x (N, C) -> (N, C).
Tensor layer_norm(Tape& tape, const Tensor& x, const NormParameters& norm);

// What x is added to, after dropout.
struct ResidualOptions {
  std::optional<Tensor> residual;  // or nothing
  Vector<const uint32_t> row_ids;
  float dropout;
};
struct SumAndNorm {
  Tensor sum;   // residual + dropout(x)
  Tensor norm;  // layer_norm(sum)
};
SumAndNorm dropout_add_norm(Tape& tape, const Tensor& x, const ResidualOptions& added, const NormParameters& norm);

// The same of x W^T + bias. The product takes the memory of the sum, its gradient that of the norm's.
SumAndNorm linear_dropout_add_norm(Tape& tape, const Tensor& x, const LinearParameters& linear,
                                   const ResidualOptions& added, const NormParameters& norm);

// Packed sequences: rows [offsets[b], offsets[b + 1]) are sequence b.
struct AttentionOptions {
  int64_t heads;
  bool causal;
  float dropout;
};
// qkv (N, 3C) -> (N, C), or (M, C) when only the outputs of `query_rows` (M, ascending) are wanted; none(): all.
Tensor self_attention(Tape& tape, const Tensor& qkv, Vector<const int64_t> sequence_offsets,
                      Vector<const int64_t> query_rows, Vector<const uint32_t> row_ids,
                      const AttentionOptions& options);

// x (N, C), distinct indices (M) -> (M, C).
Tensor gather_rows(Tape& tape, const Tensor& x, Vector<const int64_t> indices);

// The sum of softmax cross-entropies of rows against the first `items` rows of the table
// (kernels/masked_item_loss.h). It is the root of the tape: when the tape records, the gradients of hidden, table and
// bias are put in place at once. hidden (M, C), table (R >= items, C), bias (items) or null; the result (1) lives as
// long as the step.
Vector<double> masked_item_loss(Tape& tape, const Tensor& hidden, const Tensor& table, const Tensor* bias,
                                int64_t items, Vector<const int32_t> targets);

}  // namespace itemloom::ops
