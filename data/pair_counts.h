// How often two items occur together: the counts behind support, confidence, lift and item-kNN.
//
// What "together" means is the unit of counting: a sequence (the whole of a user's training interactions) or, where
// baskets are known, a basket (a sequence's interactions with the same basket label). Within a unit an item counts
// once, and so does a pair. With n units, c_i of them with item i and c_ij with both i and j:
//
//   support c_ij / n     confidence c_ij / c_i     lift n c_ij / (c_i c_j)
//
// Pairs are counted row by row from an inverted index, never held in a table: memory is O(interactions), and a row
// costs the summed sizes of the units that hold its item.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/view.h"

namespace itemloom {

enum class CountUnit { kSequence, kBasket };

// "sequence" or "basket", as files state it.
std::string count_unit_name(CountUnit unit);

class PairCounts {
 public:
  // Interactions [begins[s], ends[s]) of `items` (ids in [0, item_count)) are what is counted of sequence s; empty
  // ranges give no unit. `baskets` labels every interaction, or is none(): then a unit is a sequence. The same label in
  // two sequences means two baskets.
  PairCounts(Vector<const int64_t> begins, Vector<const int64_t> ends, Vector<const int32_t> items,
             Vector<const int32_t> baskets, int64_t item_count);

  CountUnit unit() const { return unit_; }
  // The number of units.
  int64_t units() const { return static_cast<int64_t>(unit_offsets_.size()) - 1; }
  int64_t item_count() const { return static_cast<int64_t>(item_offsets_.size()) - 1; }
  // The number of units that hold an item.
  int64_t units_of(int64_t item) const {
    return item_offsets_[static_cast<size_t>(item) + 1] - item_offsets_[static_cast<size_t>(item)];
  }

  // counts[j] += units that hold both `item` and j, and units_of(item) at j == item. `counts` (V) comes in as zeros,
  // which most of them stay: the items whose count is above zero (`item` itself among them, if any unit holds it) are
  // appended to `touched` in a fixed order. The caller sets those counts back to zero before the next row.
  void add_row(int64_t item, Vector<int32_t> counts, std::vector<int32_t>& touched) const;

 private:
  void count_sequences(Vector<const int64_t> begins, Vector<const int64_t> ends, Vector<const int32_t> items);
  void count_baskets(Vector<const int64_t> begins, Vector<const int64_t> ends, Vector<const int32_t> items,
                     Vector<const int32_t> baskets);
  void invert(int64_t item_count);

  CountUnit unit_;
  std::vector<int64_t> unit_offsets_;  // (units + 1) into unit_items_
  std::vector<int32_t> unit_items_;    // the distinct items of every unit
  std::vector<int64_t> item_offsets_;  // (V + 1) into item_units_
  std::vector<int32_t> item_units_;    // the units of every item, ascending
};

}  // namespace itemloom
