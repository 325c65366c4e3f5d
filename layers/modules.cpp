#include "layers/modules.h"

namespace itemloom {

Block::Block(const Scope& scope, const BlockOptions& options)
    : attention_(scope / "attention", options),
      attention_norm_(scope / "attention_norm", options.hidden_size, options.norm_epsilon),
      feed_forward_(scope / "feed_forward", options),
      feed_forward_norm_(scope / "feed_forward_norm", options.hidden_size, options.norm_epsilon),
      dropout_(options.dropout),
      pre_norm_(options.pre_norm) {}

SublayerInput Block::end(Tape& tape, const Tensor& x, const Linear& output, const ops::ResidualOptions& added,
                         const LayerNorm& norm) const {
  const auto [sum, normed] = ops::linear_dropout_add_norm(tape, x, output.parameters(), added, norm.parameters());
  return {.x = normed, .residual = pre_norm_ ? sum : normed};
}

SublayerInput Block::operator()(Tape& tape, const SublayerInput& input, const PackedRows& rows, const LayerNorm& next,
                                const SelectedRows* selected) const {
  // Attention is the only place where rows meet: from there on only the rows asked for are worked on.
  const Vector<const int64_t> queries = selected ? selected->indices : Vector<const int64_t>::none();
  const Vector<const uint32_t> row_ids = selected ? selected->row_ids : rows.row_ids;
  const Tensor attended = attention_.attend(tape, input.x, rows, queries);
  const Tensor residual = selected ? ops::gather_rows(tape, input.residual, selected->indices) : input.residual;
  const SublayerInput middle =
      end(tape, attended, attention_.output(), {.residual = residual, .row_ids = row_ids, .dropout = dropout_},
          pre_norm_ ? feed_forward_norm_ : attention_norm_);
  return end(tape, feed_forward_.expand(tape, middle.x), feed_forward_.output(),
             {.residual = middle.residual, .row_ids = row_ids, .dropout = dropout_},
             pre_norm_ ? next : feed_forward_norm_);
}

}  // namespace itemloom
