// Layers: short compositions of ops over named parameters.
#pragma once

#include <cstdint>
#include <optional>

#include "core/parameters.h"
#include "core/tape.h"
#include "layers/ops.h"

namespace itemloom {

class Linear {
 public:
  // weight (outputs, inputs) with a normal start of the given deviation, bias (outputs) zero.
  Linear(const Scope& scope, int64_t inputs, int64_t outputs, float deviation)
      : weight_(scope.matrix("weight", outputs, inputs, {.deviation = deviation})),
        bias_(scope.vector("bias", outputs, {})) {}
  Tensor operator()(Tape& tape, const Tensor& x) const { return ops::linear(tape, x, parameters()); }
  Tensor operator()(Tape& tape, const Tensor& x, Activation activation) const {
    return ops::linear_activation(tape, x, parameters(), activation);
  }
  ops::LinearParameters parameters() const { return {.weight = weight_, .bias = bias_}; }

 private:
  Parameter weight_, bias_;
};

class LayerNorm {
 public:
  LayerNorm(const Scope& scope, int64_t size, float epsilon)
      : gamma_(scope.vector("gamma", size, {.mean = 1})), beta_(scope.vector("beta", size, {})), epsilon_(epsilon) {}
  Tensor operator()(Tape& tape, const Tensor& x) const { return ops::layer_norm(tape, x, parameters()); }
  ops::NormParameters parameters() const { return {.gamma = gamma_, .beta = beta_, .epsilon = epsilon_}; }

 private:
  Parameter gamma_, beta_;
  float epsilon_;
};

class Embedding {
 public:
  Embedding(const Scope& scope, int64_t rows, int64_t size, float deviation)
      : weight_(scope.matrix("weight", rows, size, {.deviation = deviation})) {}
  Tensor operator()(Tape& tape, Vector<const int32_t> ids) const { return ops::embedding(tape, weight_, ids); }
  Tensor weight() const { return weight_; }

 private:
  Parameter weight_;
};

// Packed sequences as the layers see them. Row r is an item at a position; rows [sequence_offsets[b],
// sequence_offsets[b + 1]) are sequence b. row_ids name rows globally (dropout masks), whatever the batch was cut into.
struct PackedRows {
  Vector<const int64_t> sequence_offsets;  // (B + 1)
  Vector<const uint32_t> row_ids;          // (N)
};

// Rows that the rest of the model asks for: their indices and their global ids.
struct SelectedRows {
  Vector<const int64_t> indices;   // (M), ascending
  Vector<const uint32_t> row_ids;  // (M)
};

struct BlockOptions {
  int64_t hidden_size;
  int64_t heads;
  int64_t inner_size;
  float dropout;
  float attention_dropout;
  bool causal;
  bool pre_norm;
  Activation activation;
  float norm_epsilon;
  float deviation;           // of the initial weights
  float residual_deviation;  // of the weights whose output is added to the residual stream
};

// Without its second product, which Block joins with what follows.
class FeedForward {
 public:
  FeedForward(const Scope& scope, const BlockOptions& options)
      : inner_(scope / "inner", options.hidden_size, options.inner_size, options.deviation),
        outer_(scope / "outer", options.inner_size, options.hidden_size, options.residual_deviation),
        activation_(options.activation) {}
  Tensor expand(Tape& tape, const Tensor& x) const { return inner_(tape, x, activation_); }
  const Linear& output() const { return outer_; }

 private:
  Linear inner_, outer_;
  Activation activation_;
};

// Multi-head self-attention without its output projection, which Block applies to the rows it needs and joins with what
// follows.
class SelfAttention {
 public:
  SelfAttention(const Scope& scope, const BlockOptions& options)
      : qkv_(scope / "qkv", options.hidden_size, 3 * options.hidden_size, options.deviation),
        output_(scope / "output", options.hidden_size, options.hidden_size, options.residual_deviation),
        options_{.heads = options.heads, .causal = options.causal, .dropout = options.attention_dropout} {}
  // x (N, C) -> (M, C) for `query_rows` (M), or (N, C) when that is none().
  Tensor attend(Tape& tape, const Tensor& x, const PackedRows& rows, Vector<const int64_t> query_rows) const {
    return ops::self_attention(tape, qkv_(tape, x), rows.sequence_offsets, query_rows, rows.row_ids, options_);
  }
  const Linear& output() const { return output_; }

 private:
  Linear qkv_, output_;
  ops::AttentionOptions options_;
};

// What a sub-layer reads, and what its output is added to: the norm of a sum and that sum (pre-norm), or one tensor as
// both (post-norm).
struct SublayerInput {
  Tensor x, residual;
};

// A transformer block of two sub-layers f, pre-norm (residual + f(norm(residual))) or post-norm (norm(x + f(x))). Each
// hands on its sum and the norm of that, which are made together: pre-norm the norm of whoever reads it.
class Block {
 public:
  Block(const Scope& scope, const BlockOptions& options);

  const LayerNorm& first_norm() const { return attention_norm_; }

  // (N, C) -> (N, C); with `selected`, only those rows: -> (M, C), the same values as the same rows of the whole. The
  // sum of a pre-norm block is normed by `next`.
  SublayerInput operator()(Tape& tape, const SublayerInput& input, const PackedRows& rows, const LayerNorm& next,
                           const SelectedRows* selected = nullptr) const;

 private:
  // Ends a sub-layer whose last product is that of x.
  SublayerInput end(Tape& tape, const Tensor& x, const Linear& output, const ops::ResidualOptions& added,
                    const LayerNorm& norm) const;

  SelfAttention attention_;
  LayerNorm attention_norm_;
  FeedForward feed_forward_;
  LayerNorm feed_forward_norm_;
  float dropout_;
  bool pre_norm_;
};

}  // namespace itemloom
