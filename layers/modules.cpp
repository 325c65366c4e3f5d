#include "layers/modules.h"

namespace itemloom {

Block::Block(const Scope& scope, const BlockOptions& options)
    : attention_(scope / "attention", options),
      attention_norm_(scope / "attention_norm", options.hidden_size, options.norm_epsilon),
      feed_forward_(scope / "feed_forward", options),
      feed_forward_norm_(scope / "feed_forward_norm", options.hidden_size, options.norm_epsilon),
      dropout_(options.dropout),
      pre_norm_(options.pre_norm) {}

Tensor Block::operator()(Tape& tape, Tensor x, const PackedRows& rows, const SelectedRows* selected) const {
  // Attention is the only place where rows meet: from there on only the rows asked for are worked on.
  const Vector<const int64_t> queries = selected ? selected->indices : Vector<const int64_t>::none();
  const Tensor attended = attention_.attend(tape, pre_norm_ ? attention_norm_(tape, x) : x, rows, queries);
  if (selected) x = ops::gather_rows(tape, x, selected->indices);
  const Vector<const uint32_t> row_ids = selected ? selected->row_ids : rows.row_ids;
  x = ops::dropout_add(tape, attention_.project(tape, attended), x, row_ids, dropout_);
  if (!pre_norm_) x = attention_norm_(tape, x);
  const Tensor inner = pre_norm_ ? feed_forward_norm_(tape, x) : x;
  x = ops::dropout_add(tape, feed_forward_(tape, inner), x, row_ids, dropout_);
  return pre_norm_ ? x : feed_forward_norm_(tape, x);
}

}  // namespace itemloom
