#include "layers/models/bert4rec.h"

#include <string>

namespace itemloom {
namespace {

Activation activation_of(const std::string& name) {
  if (name == "gelu") return Activation::kGeluErf;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  CHECK(name == "relu", "model.activation is '", name, "'");
  return Activation::kRelu;
}

}  // namespace

Bert4Rec::Bert4Rec(const Scope& scope, const ModelConfig& config, int64_t items, int64_t max_length)
    : items_(items),
      max_length_(max_length),
      pre_norm_(config.norm == "pre"),
      dropout_(static_cast<float>(config.dropout)),
      activation_(activation_of(config.activation)),
      item_embedding_(scope / "item_embedding", items + 1, config.hidden_size, static_cast<float>(config.initial_std)),
      position_embedding_(scope / "position_embedding", max_length, config.hidden_size,
                          static_cast<float>(config.initial_std)),
      norm_(scope / (pre_norm_ ? "encoder.norm" : "embedding_norm"), config.hidden_size,
            static_cast<float>(config.norm_epsilon)) {
  const float deviation = static_cast<float>(config.initial_std);
  const BlockOptions options{.hidden_size = config.hidden_size,
                             .heads = config.heads,
                             .inner_size = config.effective_inner_size(),
                             .dropout = dropout_,
                             .attention_dropout = static_cast<float>(config.attention_dropout),
                             .causal = false,
                             .pre_norm = pre_norm_,
                             .activation = activation_,
                             .norm_epsilon = static_cast<float>(config.norm_epsilon),
                             .deviation = deviation,
                             .residual_deviation = deviation};
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    blocks_.emplace_back(scope / "encoder" / std::to_string(layer), options);
  }
  const Scope head = scope / "head";
  if (config.head_transform) {
    head_dense_.emplace(head / "dense", config.hidden_size, config.hidden_size, deviation);
    head_norm_.emplace(head / "norm", config.hidden_size, static_cast<float>(config.norm_epsilon));
  }
  if (!config.tied_output) output_embedding_.emplace(head / "output", items, config.hidden_size, deviation);
  if (config.output_bias) output_bias_.emplace(head.vector("output_bias", items, {}));
}

SublayerInput Bert4Rec::embed(Tape& tape, const MaskedBatch& batch) const {
  const Tensor items = item_embedding_(tape, batch.items), positions = position_embedding_(tape, batch.positions);
  if (pre_norm_) {
    const auto [sum, normed] =
        ops::dropout_add_norm(tape, ops::add(tape, items, positions),
                              {.residual = std::nullopt, .row_ids = batch.row_ids, .dropout = dropout_},
                              blocks_.front().first_norm().parameters());
    return {.x = normed, .residual = sum};
  }
  const Tensor normed =
      ops::dropout_add_norm(tape, items, {.residual = positions, .row_ids = batch.row_ids, .dropout = 0},
                            norm_.parameters())
          .norm;
  const Tensor x = ops::dropout(tape, normed, batch.row_ids, dropout_);
  return {.x = x, .residual = x};
}

Tensor Bert4Rec::encode(Tape& tape, const MaskedBatch& batch) const {
  SublayerInput input = embed(tape, batch);
  const PackedRows rows{.sequence_offsets = batch.sequence_offsets, .row_ids = batch.row_ids};
  const SelectedRows selected{.indices = batch.masked_rows, .row_ids = batch.masked_row_ids};
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    const bool last = layer + 1 == blocks_.size();
    const LayerNorm& next = last ? norm_ : blocks_[layer + 1].first_norm();
    input = blocks_[layer](tape, input, rows, next, last ? &selected : nullptr);
  }
  return head_dense_ ? (*head_norm_)(tape, (*head_dense_)(tape, input.x, activation_)) : input.x;
}

Vector<double> Bert4Rec::loss(Tape& tape, const MaskedBatch& batch, Vector<const int32_t> targets) const {
  const Tensor hidden = encode(tape, batch);
  const Tensor table = output_embedding_ ? output_embedding_->weight() : item_embedding_.weight();
  if (!output_bias_) return ops::masked_item_loss(tape, hidden, table, nullptr, items_, targets);
  const Tensor bias = output_bias_->tensor();
  return ops::masked_item_loss(tape, hidden, table, &bias, items_, targets);
}

Matrix<const float> Bert4Rec::output_table() const {
  return output_embedding_ ? output_embedding_->weight().matrix() : item_embeddings();
}

Vector<const float> Bert4Rec::output_bias() const {
  return output_bias_ ? Vector<const float>(output_bias_->tensor().vector()) : Vector<const float>::none();
}

Matrix<const float> Bert4Rec::item_embeddings() const {
  return item_embedding_.weight().matrix().slice(0, items_);
}

Vector<const float> Bert4Rec::mask_embedding() const {
  const Matrix<float> table = item_embedding_.weight().matrix();
  return Vector<const float>(table.row(items_), table.columns());
}

}  // namespace itemloom
