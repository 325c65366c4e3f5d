// Rows of scores of a whole catalogue, in the memory of a device, where the best of them are looked for: only these
// come to the host.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/tape.h"
#include "core/view.h"

namespace itemloom {

// Items of the rows of a tile, one row behind the other.
struct ItemLists {
  std::vector<int64_t> offsets = {0};  // row r has the items [offsets[r], offsets[r + 1])
  std::vector<int32_t> items;

  void clear();
  void add_row(Vector<const int32_t> row);
  // Only the distinct ones of the row, ascending, and none of `without`.
  void add_distinct_row(Vector<const int32_t> row, Vector<const int32_t> without);
};

// The best items of some rows, best first, of equals the lower id first.
struct BestItems {
  int64_t count;               // a row
  std::vector<int32_t> items;  // (rows, count), -1 where a row has no more
  std::vector<float> scores;   // (rows, count)

  // take(item, score) for those of a row.
  template <class Take>
  void for_row(int64_t row, const Take& take) const {
    for (int64_t place = row * count; place < (row + 1) * count; ++place) {
      const auto at = static_cast<size_t>(place);
      if (items[at] >= 0) take(items[at], scores[at]);
    }
  }
};

// One tile after the other in memory that is taken once: it grows to that of the largest tile and stays.
class ScoreTile {
 public:
  explicit ScoreTile(Device& device) : device_(device), arena_(device.kind(), kChunk) {}

  // How many of `wanted` rows fit into a tile, at least one, where `best` items of each row are asked for.
  static int64_t rows(int64_t wanted, int64_t items, int64_t best = 0) {
    const int64_t row_bytes = items * int64_t{sizeof(float)} + best * int64_t{sizeof(float) + sizeof(int32_t)};
    return std::clamp<int64_t>(kMostBytes / std::max<int64_t>(row_bytes, 1), 1, std::max<int64_t>(wanted, 1));
  }

  // A new tile (rows, items), whose scores the caller is to write. What the last one gave on the device is gone.
  Matrix<float> begin(int64_t rows, int64_t items);

  // Of each row its items are no candidates any more; they are distinct.
  void exclude(const ItemLists& lists);
  // Of each row's candidates (kernels/log_sum_exp.h).
  std::vector<double> log_sum_exp();
  // At most `count` of each row's candidates.
  BestItems best(int64_t count);
  float score(int64_t row, int64_t item);

  // For what else is to be made of the scores, in memory that lives as long as the tile.
  Tape& tape() { return *tape_; }

  // Takes so many bytes before the first tile; what a tile has used.
  void reserve(int64_t bytes) { arena_.reserve(bytes); }
  int64_t used() const { return arena_.used(); }

 private:
  static constexpr int64_t kMostBytes = int64_t{256} << 20;
  // What lies beside the scores is small.
  static constexpr int64_t kChunk = int64_t{1} << 20;

  Device& device_;
  Arena arena_;
  std::optional<Tape> tape_;
  Matrix<float> scores_ = Matrix<float>::none();
};

}  // namespace itemloom
