// What the model says of one item given another, beside what the training data counted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/pair_counts.h"
#include "train/run_folder.h"
#include "train/scorers.h"

namespace itemloom {

// Of item j given item i.
struct Association {
  int32_t item;       // j
  float score;        // P(j | history {i}): softmax of the model's logits over all items but i
  float log_ratio;    // log P(j | i) - log P(j), P(j) being j's share of the training interactions (at least one)
  int32_t count;      // units (baskets or users, see PairCounts) with both
  double support;     // count / units
  double confidence;  // count / units with i
  double lift;        // count * units / (units with i * units with j); 0 when one of them is in no unit
};

class Associations {
 public:
  explicit Associations(OpenedRun& run);

  // "basket" or "sequence".
  std::string count_unit() const { return count_unit_name(counts_.unit()); }
  // The `count` items of highest score given `item`, best first.
  std::vector<Association> best(int32_t item, int64_t count);
  // The same for a block of items [first, first + items): a row each. The caller keeps them to ScoreTile::rows().
  std::vector<std::vector<Association>> best_of_block(int32_t first, int64_t items, int64_t count);
  Association between(int32_t item, int32_t other);

 private:
  // How often an item is together with each other one.
  struct CountedRow {
    std::vector<int32_t> counts, touched;
    void assign(const PairCounts& pairs, int32_t item);
  };

  // Puts the logits given each of these items, themselves excluded, into the scorer's tile.
  void score(int32_t first, int64_t rows);
  Association describe(int32_t item, int32_t other, double log_probability, int32_t count) const;

  OpenedRun& run_;
  ModelScorer scorer_;
  PairCounts counts_;
  std::vector<int64_t> item_counts_;  // training interactions
  double interactions_ = 0;
  std::vector<CountedRow> counted_;  // by thread
};

// Sequences as pair counts see them: the training parts.
PairCounts training_pair_counts(const Dataset& dataset, const Split& split, bool by_basket);

}  // namespace itemloom
