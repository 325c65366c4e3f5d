#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

constexpr int64_t kItems = 50;

struct Sequences {
  std::vector<int32_t> items;
  std::vector<int64_t> begins, ends;
  explicit Sequences(const std::vector<int64_t>& lengths) {
    for (int64_t length : lengths) {
      begins.push_back(static_cast<int64_t>(items.size()));
      for (int64_t place = 0; place < length; ++place) {
        items.push_back(static_cast<int32_t>(test::random_int(4, static_cast<int64_t>(items.size()), kItems)));
      }
      ends.push_back(static_cast<int64_t>(items.size()));
    }
  }
  Windows windows(const DataConfig& config) const {
    return Windows(Vector<const int64_t>(begins.data(), begins.size()), Vector<const int64_t>(ends.data(), ends.size()),
                   config);
  }
};

}  // namespace

TEST_CASE("windows are the last items of a sequence, or slide until its start is covered", "[loader]") {
  const Sequences sequences({3, 0, 12});
  DataConfig config;
  config.max_length = 5;
  const Windows last = sequences.windows(config);
  REQUIRE(last.size() == 2);
  REQUIRE(last[0].begin == 0);
  REQUIRE(last[0].length == 3);
  REQUIRE(last[1].begin == 10);
  REQUIRE(last[1].length == 5);
  config.windows = "sliding";
  config.window_stride = 4;
  const Windows sliding = sequences.windows(config);
  std::set<int64_t> covered;
  for (int64_t index = 0; index < sliding.size(); ++index) {
    const Window window = sliding[index];
    REQUIRE(window.length <= 5);
    for (int64_t item = window.begin; item < window.begin + window.length; ++item) covered.insert(item);
  }
  REQUIRE(covered.size() == 15);
}

TEST_CASE("a window that is computed is the one that walking back from a sequence's end finds", "[loader]") {
  std::vector<int64_t> full, ragged = {0, 0};
  for (int64_t length = 1; length < 40; ++length) {
    full.push_back(length);
    ragged.insert(ragged.end(), {length, 0});
  }
  ragged.push_back(0);
  for (const auto& lengths : {full, ragged}) {
    const Sequences sequences(lengths);
    for (const int64_t stride : {-1, 0, 1, 3, 7}) {
      DataConfig config;
      config.max_length = 7;
      config.windows = stride < 0 ? "last" : "sliding";
      config.window_stride = std::max<int64_t>(stride, 0);
      std::vector<std::pair<int64_t, int64_t>> expected;
      for (size_t sequence = 0; sequence < lengths.size(); ++sequence) {
        for (int64_t begin = sequences.begins[sequence], end = sequences.ends[sequence]; end > begin;) {
          const int64_t length = std::min<int64_t>(end - begin, 7);
          expected.emplace_back(end - length, length);
          if (stride < 0 || end - length == begin) break;
          end -= stride > 0 ? stride : 7;
        }
      }
      const Windows windows = sequences.windows(config);
      std::vector<std::pair<int64_t, int64_t>> found;
      std::vector<int64_t> counts(8);
      for (int64_t index = 0; index < windows.size(); ++index) {
        found.emplace_back(windows[index].begin, windows[index].length);
        ++counts[static_cast<size_t>(windows[index].length)];
      }
      REQUIRE(found == expected);
      REQUIRE(windows.length_counts() == counts);
    }
  }
}

TEST_CASE("every window comes once an epoch, orders differ between epochs, batches are a function of their place",
          "[loader]") {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 37; ++i) lengths.push_back(1 + i % 9);
  const Sequences sequences(lengths);
  DataConfig data;
  data.max_length = 9;
  MaskingConfig masking;
  auto loader = [&](int64_t sequences_a_batch, int64_t tokens) {
    return std::make_unique<Loader>(Vector<const int32_t>(sequences.items.data(), sequences.items.size()),
                                    sequences.windows(data), Masking(masking, 3, kItems),
                                    LoaderOptions{.max_length = 9,
                                                  .batch_sequences = sequences_a_batch,
                                                  .batch_tokens = tokens,
                                                  .piece_tokens = 12,
                                                  .seed = 3});
  };
  for (int64_t tokens : {0, 30}) {
    auto one = loader(8, tokens), other = loader(8, tokens);
    int64_t rows = 0, samples = 0;
    std::vector<int32_t> first_epoch, second_epoch;
    for (int64_t batch = 0; batch < one->batches(0); ++batch) {
      const StepBatch& step = one->load(0, batch);
      int64_t masked = 0;
      if (tokens > 0) REQUIRE(step.rows <= 30);
      for (size_t index = 0; index < step.shard_ends.back(); ++index) {
        const PackedBatch& piece = step.pieces[index];
        REQUIRE(piece.rows() <= 12);
        masked += piece.masked();
        first_epoch.insert(first_epoch.end(), piece.items.begin(), piece.items.end());
        for (int64_t sequence = 0; sequence < piece.sequences(); ++sequence) {
          const int64_t last = piece.sequence_offsets[static_cast<size_t>(sequence) + 1] - 1;
          REQUIRE(piece.positions[static_cast<size_t>(last)] == 8);
        }
      }
      REQUIRE(masked == step.masked);
      rows += step.rows;
      samples += step.sequences;
    }
    REQUIRE(rows == static_cast<int64_t>(sequences.items.size()));
    REQUIRE(samples == 37);
    for (int64_t batch = 0; batch < one->batches(1); ++batch) {
      const StepBatch& step = one->load(1, batch);
      for (size_t index = 0; index < step.shard_ends.back(); ++index) {
        second_epoch.insert(second_epoch.end(), step.pieces[index].items.begin(), step.pieces[index].items.end());
      }
    }
    REQUIRE(first_epoch != second_epoch);
    // Asked for out of order, a batch is the same.
    const std::vector<int32_t> third = one->load(1, 2).pieces[0].items;
    REQUIRE(other->load(1, 2).pieces[0].items == third);
  }
}

TEST_CASE("pieces are filled up with rows that count for nothing, to few sizes", "[loader]") {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 37; ++i) lengths.push_back(1 + i % 9);
  const Sequences sequences(lengths);
  DataConfig data;
  data.max_length = 9;
  const Windows windows = sequences.windows(data);
  LoaderOptions options{.max_length = 9, .batch_sequences = 8, .batch_tokens = 0, .piece_tokens = 20, .seed = 3};
  const auto loader = [&] {
    return std::make_unique<Loader>(Vector<const int32_t>(sequences.items.data(), sequences.items.size()), windows,
                                    Masking(MaskingConfig(), 3, kItems), options);
  };
  const auto plain = loader();
  for (const int64_t bucket : {4, 16, 24}) {
    CAPTURE(bucket);
    options.bucket = bucket;
    const auto filling = loader();
    const BatchBounds bounds = batch_bounds(windows, options);
    for (int64_t batch = 0; batch < plain->batches(0); ++batch) {
      const StepBatch &expected = plain->load(0, batch), &filled = filling->load(0, batch);
      REQUIRE(filled.masked == expected.masked);
      REQUIRE(filled.rows == expected.rows);
      REQUIRE(filled.shard_ends == expected.shard_ends);
      for (size_t index = 0; index < filled.shard_ends.back(); ++index) {
        const PackedBatch &piece = filled.pieces[index], &real = expected.pieces[index];
        REQUIRE(piece.rows() % bucket == 0);
        REQUIRE(piece.rows() <= bounds.piece_rows);
        REQUIRE(piece.rows() < real.rows() + bucket + bucket / 4);
        REQUIRE(piece.masked() % (bucket / 4) == 0);
        REQUIRE(piece.masked() < real.masked() + bucket / 4);
        REQUIRE(piece.sequences() == bounds.piece_sequences(piece.rows(), options));
        const auto begins_with = [](const auto& whole, const auto& part) {
          return std::equal(part.begin(), part.end(), whole.begin());
        };
        REQUIRE(begins_with(piece.items, real.items));
        REQUIRE(begins_with(piece.positions, real.positions));
        REQUIRE(begins_with(piece.row_ids, real.row_ids));
        REQUIRE(begins_with(piece.sequence_offsets, real.sequence_offsets));
        REQUIRE(begins_with(piece.masked_rows, real.masked_rows));
        REQUIRE(begins_with(piece.masked_row_ids, real.masked_row_ids));
        REQUIRE(begins_with(piece.targets, real.targets));
        REQUIRE(std::is_sorted(piece.sequence_offsets.begin(), piece.sequence_offsets.end()));
        REQUIRE(piece.sequence_offsets.back() == piece.rows());
        for (int64_t sequence = 0; sequence < piece.sequences(); ++sequence) {
          const auto at = static_cast<size_t>(sequence);
          REQUIRE(piece.sequence_offsets[at + 1] - piece.sequence_offsets[at] <= options.max_length);
        }
        for (size_t row = real.masked_rows.size(); row < piece.masked_rows.size(); ++row) {
          REQUIRE(piece.targets[row] == -1);
          REQUIRE(piece.masked_rows[row] >= real.rows());
          REQUIRE(piece.masked_rows[row] == piece.rows() - piece.masked() + static_cast<int64_t>(row));
        }
        for (const auto* list : {&piece.items, &piece.positions}) REQUIRE(list->size() == piece.row_ids.size());
        REQUIRE(*std::max_element(piece.positions.begin(), piece.positions.end()) < options.max_length);
      }
    }
  }
}

TEST_CASE("the shards of a batch are the batch, about equal in rows, whichever of them a loader fills", "[loader]") {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 53; ++i) lengths.push_back(1 + i * i % 9);
  const Sequences sequences(lengths);
  DataConfig data;
  data.max_length = 9;
  auto loader = [&](int shards, int first, int local) {
    return std::make_unique<Loader>(Vector<const int32_t>(sequences.items.data(), sequences.items.size()),
                                    sequences.windows(data), Masking(MaskingConfig(), 3, kItems),
                                    LoaderOptions{.max_length = 9,
                                                  .batch_sequences = 10,
                                                  .batch_tokens = 0,
                                                  .piece_tokens = 12,
                                                  .seed = 3,
                                                  .shards = shards,
                                                  .first_shard = first,
                                                  .local_shards = local});
  };
  // What each row is, by its name for dropout.
  auto rows_of = [](const StepBatch& step) {
    std::map<uint32_t, std::pair<int32_t, int32_t>> rows;
    for (size_t index = 0; index < step.shard_ends.back(); ++index) {
      const PackedBatch& piece = step.pieces[index];
      for (size_t row = 0; row < piece.items.size(); ++row) {
        rows[piece.row_ids[row]] = {piece.items[row], piece.positions[row]};
      }
    }
    return rows;
  };
  const auto whole = loader(1, 0, 1);
  for (const int shards : {2, 4, 16}) {
    for (int64_t batch = 0; batch < whole->batches(0); ++batch) {
      const StepBatch& expected = whole->load(0, batch);
      auto rows = rows_of(expected);
      int64_t masked = 0;
      size_t fewest = rows.size(), most = 0;
      for (int shard = 0; shard < shards; ++shard) {
        const auto part = loader(shards, shard, 1);
        const StepBatch& step = part->load(0, batch);
        REQUIRE(step.rows == expected.rows);
        REQUIRE(step.sequences == expected.sequences);
        masked += step.masked;
        const auto here = rows_of(step);
        fewest = std::min(fewest, here.size());
        most = std::max(most, here.size());
        for (const auto& [name, row] : here) {
          REQUIRE(rows.count(name) == 1);
          REQUIRE(rows[name] == row);
          rows.erase(name);
        }
      }
      REQUIRE(rows.empty());
      REQUIRE(masked == expected.masked);
      REQUIRE(most - fewest <= 9);
      // Two shards in one loader are the same two.
      const auto pair = loader(shards, 0, 2);
      const auto second = loader(shards, 1, 1);
      const StepBatch& both = pair->load(0, batch);
      const StepBatch& one = second->load(0, batch);
      REQUIRE(both.shard_ends.size() == 2);
      REQUIRE(both.shard_ends[1] - both.shard_ends[0] == one.shard_ends[0]);
      for (size_t index = 0; index < one.shard_ends[0]; ++index) {
        REQUIRE(both.pieces[both.shard_ends[0] + index].row_ids == one.pieces[index].row_ids);
      }
    }
  }
}

TEST_CASE("at least one item is masked, and shares are as configured", "[loader]") {
  const std::vector<int32_t> window = {5, 6, 7, 8, 9, 10, 11, 12};
  const Vector<const int32_t> view(window.data(), window.size());
  MaskingConfig config;
  config.probability = 0.25;
  config.mask_last_share = 0;
  config.replacement = "bert";
  int64_t masked = 0, kept = 0, replaced = 0, samples = 4000;
  const Masking masking(config, 7, kItems);
  for (int64_t sample = 0; sample < samples; ++sample) {
    PackedBatch batch;
    batch.clear();
    masking.append(batch, view, sample, 0, 0, 8);
    REQUIRE(batch.masked() >= 1);
    masked += batch.masked();
    for (int64_t i = 0; i < batch.masked(); ++i) {
      const int64_t row = batch.masked_rows[static_cast<size_t>(i)];
      const int32_t shown = batch.items[static_cast<size_t>(row)], target = batch.targets[static_cast<size_t>(i)];
      REQUIRE(target == window[static_cast<size_t>(row)]);
      kept += shown == target;
      replaced += shown != target && shown != kItems;
    }
  }
  const double share = static_cast<double>(masked) / static_cast<double>(8 * samples);
  // 0.25, and one mask for the 10 % of samples that would have none.
  REQUIRE(share == Approx(0.25 + std::pow(0.75, 8) / 8).epsilon(0.03));
  REQUIRE(static_cast<double>(kept) / static_cast<double>(masked) == Approx(0.1 * 1.02).epsilon(0.12));
  REQUIRE(static_cast<double>(replaced) / static_cast<double>(masked) == Approx(0.1 * 0.98).epsilon(0.12));

  config.mask_last_share = 1;
  const Masking last_only(config, 7, kItems);
  PackedBatch batch;
  batch.clear();
  last_only.append(batch, view, 0, 0, 3, 10);
  REQUIRE(batch.masked_rows == std::vector<int64_t>{7});
  REQUIRE(batch.targets == std::vector<int32_t>{12});
  REQUIRE(batch.masked_row_ids == std::vector<uint32_t>{37});
  REQUIRE(batch.positions.front() == 2);
}

TEST_CASE("a history ends in one mask at the last position and is cut from its start", "[loader]") {
  const std::vector<int32_t> history = {1, 2, 3, 4, 5, 6};
  PackedBatch batch;
  batch.clear();
  batch.append_history(Vector<const int32_t>(history.data(), 6), 50, 4, 9);
  REQUIRE(batch.items == std::vector<int32_t>{4, 5, 6, 50});
  REQUIRE(batch.positions == std::vector<int32_t>{0, 1, 2, 3});
  batch.append_history(Vector<const int32_t>(history.data(), 1), 50, 4);
  REQUIRE(batch.items == std::vector<int32_t>{4, 5, 6, 50, 1, 50});
  REQUIRE(batch.masked_rows == std::vector<int64_t>{3, 5});
  REQUIRE(batch.sequence_offsets == std::vector<int64_t>{0, 4, 6});
}

}  // namespace itemloom
