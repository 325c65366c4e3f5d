// Which interactions are trained on, and what is asked in validation and test.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/view.h"
#include "data/config.h"
#include "data/dataset.h"

namespace itemloom {

// One question: given the first `history_end` items of a sequence, which come next? The answer is
// EvaluationCases::targets[targets_begin, targets_end): distinct items in the order of their first appearance, at least
// one. With leave-one-out it is one item. Items of the history may be among them.
struct EvaluationCase {
  int64_t sequence;
  int64_t history_end;  // at least 1
  int64_t targets_begin, targets_end;
};

// Part `index` of `count` about equal parts of the cases, in their order: each rank holds its own.
struct CasePart {
  int index = 0, count = 1;
};

struct EvaluationCases {
  std::vector<EvaluationCase> cases;  // by sequence, ascending
  std::vector<int32_t> targets;
  int64_t elsewhere = 0;  // how many cases the other parts hold

  int64_t size() const { return static_cast<int64_t>(cases.size()); }
  int64_t size_of_all() const { return size() + elsewhere; }
  Vector<const int32_t> targets_of(const EvaluationCase& one) const {
    return Vector<const int32_t>(targets.data() + one.targets_begin, one.targets_end - one.targets_begin);
  }
};

struct Split {
  // (sequences) Where the training part of each sequence ends in Dataset::items; it begins at Dataset::offsets. Empty
  // parts occur in temporal splits.
  std::vector<int64_t> training_ends;
  EvaluationCases validation, test;
  int64_t training_interactions = 0;
  // Leave-one-out: sequences of fewer than three interactions, which stay wholly in training.
  int64_t too_short = 0;
  // Temporal: sequences with interactions in the window, but none before it, which nothing can be asked about.
  int64_t validation_without_history = 0, test_without_history = 0;
};

// leave_one_out: of a sequence of n >= 3 items the last is test (history: the n - 1 before it), the one before it
// validation (history n - 2), and the first n - 2 are training.
// temporal: training is what comes before validation_from, validation asks for what comes from then until test_from,
// test for what comes from test_from on; histories are all that comes before, so that those of test include the
// validation window.
// The cases are those of `part`. Throws Error when a time is missing or wrong, and when no sequence can be evaluated in
// validation or in test.
Split make_split(const Dataset& dataset, const DataConfig& config, const CasePart& part = {});

// What of the data is not evaluated and why, for people, in one line; empty when all of it is.
std::string unasked_text(const Split& split);

// (V) How often each item comes in the training parts.
std::vector<int64_t> training_item_counts(const Dataset& dataset, const Split& split);

}  // namespace itemloom
