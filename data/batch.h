// Packed batches: one list of rows, and no pad token but where graphs ask for it (PackedBatch::fill_up).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/view.h"
#include "data/config.h"

namespace itemloom {

// The head costs more than a row of the encoder, so masked rows have smaller buckets.
constexpr int64_t masked_bucket(int64_t bucket) {
  return std::max<int64_t>(1, bucket / 4);
}
// The rows of a piece once it is filled up: fewer than a bucket and a quarter more.
constexpr int64_t filled_rows(int64_t rows, int64_t masked, int64_t bucket) {
  const int64_t appended_masked = round_up(masked, masked_bucket(bucket)) - masked;
  return round_up(rows + appended_masked, bucket);
}

// Rows of several sequences one after the other. The last item of every sequence has position max_length - 1, so that
// "the item before the mask" is the same place in training, evaluation and export, whatever the history's length.
struct PackedBatch {
  std::vector<int32_t> items;             // (N); the mask id stands for [MASK]
  std::vector<int32_t> positions;         // (N)
  std::vector<int64_t> sequence_offsets;  // (B + 1)
  std::vector<uint32_t> row_ids;          // (N) names of the rows for dropout: sample in the step x max_length + place
  std::vector<int64_t> masked_rows;       // (M), ascending
  std::vector<uint32_t> masked_row_ids;   // (M)
  std::vector<int32_t> targets;           // (M) what the mask hides

  int64_t sequences() const { return static_cast<int64_t>(sequence_offsets.size()) - 1; }
  int64_t rows() const { return static_cast<int64_t>(items.size()); }
  int64_t masked() const { return static_cast<int64_t>(masked_rows.size()); }

  // Empties it and keeps the memory.
  void clear();
  void reserve(int64_t rows, int64_t sequences);

  // For graphs of kernels, which have a fixed number of rows: appends rows up to a multiple of `bucket`, masked rows up
  // to a multiple of masked_bucket(), and empty sequences up to `sequences`. What is appended are sequences of their
  // own, whose masked rows ask for nothing (target -1), so that it adds zero to the loss and to every gradient.
  void fill_up(int64_t bucket, int64_t max_length, int64_t sequences);

  // Appends a history followed by one [MASK] (the last max_length - 1 items of it); `target` is what is asked for, or
  // -1.
  void append_history(Vector<const int32_t> history, int32_t mask_id, int64_t max_length, int32_t target = -1);
};

// How items of a training sample are masked. Every draw is a function of (seed, epoch, window, place).
class Masking {
 public:
  Masking(const MaskingConfig& config, uint64_t seed, int64_t items);

  // Appends a training sample (1 to max_length items) with masks: each item with the configured probability, at least
  // one; or, for the configured share of samples, the last item alone. Masked items are replaced by [MASK], or, with
  // replacement "bert", by [MASK] (80 %), a random item (10 %) or themselves (10 %).
  void append(PackedBatch& batch, Vector<const int32_t> window, int64_t window_index, int64_t epoch,
              uint32_t sample_in_step, int64_t max_length) const;

 private:
  bool mask_last_only(int64_t window_index, int64_t epoch) const;
  int32_t replace(int32_t item, uint32_t choice, uint32_t random) const;

  double probability_;
  double mask_last_share_;
  bool bert_replacement_;
  uint32_t key0_, key1_;
  int32_t items_;
};

}  // namespace itemloom
