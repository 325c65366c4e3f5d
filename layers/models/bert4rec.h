// BERT4Rec (Sun et al., CIKM 2019): a bidirectional transformer over item sequences, trained to name masked items.
//
//   items + positions -> norm (post-norm only) -> dropout -> blocks -> norm (pre-norm only)
//   -> [dense -> activation -> norm] -> table^T + bias
//
// Item ids are 0 .. V - 1; row V of the item table is [MASK]. Only the rows asked for leave the last block and reach
// the head; logits over the catalogue are formed in tiles by whoever needs them (the loss, the evaluation).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"
#include "layers/models/config.h"
#include "layers/modules.h"

namespace itemloom {

// A packed batch as the model sees it: no pad token exists.
struct MaskedBatch {
  Vector<const int32_t> items;             // (N), V stands for [MASK]
  Vector<const int32_t> positions;         // (N), in [0, max_length): the last item of a sequence is at max_length - 1
  Vector<const int64_t> sequence_offsets;  // (B + 1)
  Vector<const uint32_t> row_ids;          // (N) global row ids, see core/rng.h
  Vector<const int64_t> masked_rows;       // (M), ascending
  Vector<const uint32_t> masked_row_ids;   // (M)
};

class Bert4Rec {
 public:
  // Registers its parameters under `scope`; usable once the store has been allocated.
  Bert4Rec(const Scope& scope, const ModelConfig& config, int64_t items, int64_t max_length);

  int64_t items() const { return items_; }
  int32_t mask_id() const { return static_cast<int32_t>(items_); }

  // (M, C): what the head says of the masked rows; its product with output_table() plus output_bias() gives logits.
  Tensor encode(Tape& tape, const MaskedBatch& batch) const;

  // The sum over masked rows of -log P(target); targets (M).
  Vector<double> loss(Tape& tape, const MaskedBatch& batch, Vector<const int32_t> targets) const;

  Matrix<const float> output_table() const;     // (V, C)
  Vector<const float> output_bias() const;      // (V), or none()
  Matrix<const float> item_embeddings() const;  // (V, C), what an export holds
  Vector<const float> mask_embedding() const;   // (C)

 private:
  SublayerInput embed(Tape& tape, const MaskedBatch& batch) const;

  int64_t items_, max_length_;
  bool pre_norm_;
  float dropout_;
  Activation activation_;
  Embedding item_embedding_, position_embedding_;
  LayerNorm norm_;  // of the embeddings (post-norm) or of the encoder's output (pre-norm)
  std::vector<Block> blocks_;
  std::optional<Linear> head_dense_;
  std::optional<LayerNorm> head_norm_;
  std::optional<Embedding> output_embedding_;  // when not tied
  std::optional<Parameter> output_bias_;
};

}  // namespace itemloom
