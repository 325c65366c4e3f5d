#include "data/batch.h"

#include <algorithm>

#include "core/check.h"
#include "core/rng.h"

namespace itemloom {

void PackedBatch::clear() {
  items.clear();
  positions.clear();
  sequence_offsets.assign(1, 0);
  row_ids.clear();
  masked_rows.clear();
  masked_row_ids.clear();
  targets.clear();
}

void PackedBatch::reserve(int64_t rows, int64_t sequences) {
  const size_t count = static_cast<size_t>(rows);
  items.reserve(count);
  positions.reserve(count);
  row_ids.reserve(count);
  masked_rows.reserve(count);
  masked_row_ids.reserve(count);
  targets.reserve(count);
  sequence_offsets.reserve(static_cast<size_t>(sequences) + 1);
}

void PackedBatch::fill_up(int64_t bucket, int64_t max_length, int64_t sequences) {
  const int64_t begin = rows(), end = filled_rows(begin, masked(), bucket);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t place = (row - begin) % max_length;
    if (place == 0 && row > begin) sequence_offsets.push_back(row);
    items.push_back(0);
    positions.push_back(static_cast<int32_t>(place));
    row_ids.push_back(0);
  }
  const int64_t appended_masked = round_up(masked(), masked_bucket(bucket)) - masked();
  for (int64_t row = end - appended_masked; row < end; ++row) {
    masked_rows.push_back(row);
    masked_row_ids.push_back(0);
    targets.push_back(-1);
  }
  if (end > begin) sequence_offsets.push_back(end);
  CHECK(this->sequences() <= sequences, "a batch of ", this->sequences(), " sequences is to be filled up to ",
        sequences);
  sequence_offsets.resize(static_cast<size_t>(sequences) + 1, end);
}

void PackedBatch::append_history(Vector<const int32_t> history, int32_t mask_id, int64_t max_length, int32_t target) {
  const int64_t kept = std::min(history.size(), max_length - 1);
  const int64_t first_position = max_length - 1 - kept;
  for (int64_t place = 0; place < kept; ++place) {
    items.push_back(history[history.size() - kept + place]);
    positions.push_back(static_cast<int32_t>(first_position + place));
    row_ids.push_back(0);
  }
  masked_rows.push_back(rows());
  masked_row_ids.push_back(0);
  targets.push_back(target);
  items.push_back(mask_id);
  positions.push_back(static_cast<int32_t>(max_length - 1));
  row_ids.push_back(0);
  sequence_offsets.push_back(rows());
}

Masking::Masking(const MaskingConfig& config, uint64_t seed, int64_t items)
    : probability_(config.probability),
      mask_last_share_(config.mask_last_share),
      bert_replacement_(config.replacement == "bert"),
      key0_(static_cast<uint32_t>(mix64(seed ^ hash_name("masking")))),
      key1_(static_cast<uint32_t>(mix64(seed ^ hash_name("masking")) >> 32)),
      items_(static_cast<int32_t>(items)) {}

// The draws of a sample: counter {place, window, epoch, 0} for its items, {0, window, epoch, 1} for the sample itself.
bool Masking::mask_last_only(int64_t window_index, int64_t epoch) const {
  const PhiloxBlock draw =
      philox({0, static_cast<uint32_t>(window_index), static_cast<uint32_t>(epoch), 1}, key0_, key1_);
  return uniform_from(draw[0]) < mask_last_share_;
}

int32_t Masking::replace(int32_t item, uint32_t choice, uint32_t random) const {
  const float draw = uniform_from(choice);
  if (!bert_replacement_ || draw < 0.8f) return items_;
  if (draw < 0.9f) return static_cast<int32_t>((uint64_t{random} * static_cast<uint64_t>(items_)) >> 32);
  return item;
}

void Masking::append(PackedBatch& batch, Vector<const int32_t> window, int64_t window_index, int64_t epoch,
                     uint32_t sample_in_step, int64_t max_length) const {
  const int64_t length = window.size();
  CHECK(length >= 1 && length <= max_length, "a training sample of ", length, " items, at most ", max_length, " fit");
  const bool last_only = mask_last_only(window_index, epoch);
  const int64_t first_row = batch.rows();
  const size_t first_masked = batch.masked_rows.size();
  const uint32_t first_id = sample_in_step * static_cast<uint32_t>(max_length);
  auto draw_for = [&](int64_t place) {
    return philox({static_cast<uint32_t>(place), static_cast<uint32_t>(window_index), static_cast<uint32_t>(epoch), 0},
                  key0_, key1_);
  };
  auto mask = [&](int64_t place, const PhiloxBlock& draw) {
    batch.masked_rows.push_back(first_row + place);
    batch.masked_row_ids.push_back(first_id + static_cast<uint32_t>(place));
    batch.targets.push_back(window[place]);
    batch.items[static_cast<size_t>(first_row + place)] = replace(window[place], draw[1], draw[2]);
  };
  for (int64_t place = 0; place < length; ++place) {
    batch.items.push_back(window[place]);
    batch.positions.push_back(static_cast<int32_t>(max_length - length + place));
    batch.row_ids.push_back(first_id + static_cast<uint32_t>(place));
    if (last_only) continue;
    const PhiloxBlock draw = draw_for(place);
    if (uniform_from(draw[0]) < probability_) mask(place, draw);
  }
  if (last_only) {
    mask(length - 1, draw_for(length - 1));
  } else if (batch.masked_rows.size() == first_masked) {
    const uint32_t choice = draw_for(0)[3];
    const int64_t place = static_cast<int64_t>((uint64_t{choice} * static_cast<uint64_t>(length)) >> 32);
    mask(place, draw_for(place));
  }
  batch.sequence_offsets.push_back(batch.rows());
}

}  // namespace itemloom
