// Interactions on their way from rows to sequences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/dataset.h"
#include "data/filters.h"
#include "data/readers.h"
#include "data/timestamp.h"
#include "data/vocabulary.h"

namespace itemloom {

// Rows in the order of the files, as numbers: 8 bytes a row, 8 more with timestamps, 4 more with baskets. A sequence is
// a user or, with sequence_by "basket", a basket. Sequences, items and baskets are numbered in the order in which they
// first appear.
struct InteractionLog {
  Vocabulary sequences, items, baskets;
  std::vector<int32_t> sequence, item;
  std::vector<int64_t> time;        // empty when the data has no timestamps
  std::vector<int32_t> basket;      // empty when it has no baskets, or when they are the sequences
  std::vector<std::string> titles;  // by item; empty when unknown
  TimestampScale scale;

  int64_t size() const { return static_cast<int64_t>(item.size()); }
};

// Fills an InteractionLog from rows.
class InteractionCollector {
 public:
  explicit InteractionCollector(const DataConfig& config);

  // Takes a row; why it cannot be used, or null.
  const char* take(const Row& row);
  // A title from a file of titles; it goes before any title from rows. Ids that are no items are passed over.
  void set_title(std::string_view id, std::string_view title);
  // The log, when all rows are in.
  InteractionLog finish();

 private:
  const char* take_time(std::string_view text);
  void vote_for_title(int32_t item, std::string_view title);

  bool by_basket_, has_baskets_, has_times_, has_titles_;
  InteractionLog log_;
  // Rows of one user, item or basket often follow each other; a comparison is cheaper than a look-up.
  std::string last_sequence_, last_basket_;
  int32_t last_sequence_number_ = -1, last_basket_number_ = -1;
  // The title of most rows wins (Boyer and Moore's majority vote: exact when one has more than half of the item's
  // rows).
  std::vector<int32_t> title_votes_;
};

// Drops the rows of sequences with fewer than `users` rows and of items with fewer than `items` rows, until all have as
// many. What is left is renumbered in the same order.
RuleReport drop_to_k_core(InteractionLog& log, int64_t users, int64_t items);

// The dataset of these interactions, but for its provenance: by sequence, each sequence in time order, where equal
// times keep the order of the log. Takes all that the log holds. `ties` becomes the number of interactions with the
// time of the one before them in their sequence.
Dataset make_dataset(InteractionLog& log, const std::string& sequence_by, const std::string& timestamp_unit,
                     int64_t& ties);

}  // namespace itemloom
