#include "data/split.h"

#include <algorithm>

#include "core/check.h"
#include "data/text.h"
#include "data/timestamp.h"

namespace itemloom {
namespace {

constexpr int64_t kLeastLength = 3;  // one item each for training, validation and test

void add_single(EvaluationCases& cases, int64_t sequence, int64_t history_end, int32_t target) {
  const auto begin = static_cast<int64_t>(cases.targets.size());
  cases.targets.push_back(target);
  cases.cases.push_back({sequence, history_end, begin, begin + 1});
}

Split leave_one_out(const Dataset& dataset) {
  Split split;
  int64_t longest = 0;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    const Vector<const int32_t> items = dataset.sequence(s);
    const int64_t n = items.size();
    longest = std::max(longest, n);
    if (n < kLeastLength) {
      ++split.too_short;
      split.training_ends.push_back(dataset.offsets[s + 1]);
      continue;
    }
    split.training_ends.push_back(dataset.offsets[s + 1] - 2);
    add_single(split.validation, s, n - 2, items[n - 2]);
    add_single(split.test, s, n - 1, items[n - 1]);
  }
  CHECK(split.test.size() > 0, "no sequence is long enough to be evaluated: the longest of ",
        grouped(dataset.sequence_count()), " has ", longest, longest == 1 ? " interaction" : " interactions",
        ", and leave_one_out needs ", kLeastLength);
  return split;
}

// Appends the case of one sequence whose window is [begin, end) of the sequence.
void add_window(EvaluationCases& cases, int64_t& without_history, const Dataset& dataset, int64_t sequence,
                int64_t begin, int64_t end, std::vector<int64_t>& last_seen_in) {
  if (begin == end) return;
  if (begin == 0) {
    ++without_history;
    return;
  }
  const Vector<const int32_t> items = dataset.sequence(sequence);
  const auto targets_begin = static_cast<int64_t>(cases.targets.size());
  for (int64_t i = begin; i < end; ++i) {
    if (last_seen_in[items[i]] == sequence) continue;
    last_seen_in[items[i]] = sequence;
    cases.targets.push_back(items[i]);
  }
  cases.cases.push_back({sequence, begin, targets_begin, static_cast<int64_t>(cases.targets.size())});
}

Split temporal(const Dataset& dataset, const TemporalSplitConfig& config) {
  CHECK(dataset.timestamps, "data.split is \"temporal\", but the data has no timestamps");
  const int64_t validation_from =
      ticks_of(config.validation_from, dataset.timestamp_unit, "data.temporal.validation_from");
  const int64_t test_from = ticks_of(config.test_from, dataset.timestamp_unit, "data.temporal.test_from");
  CHECK(validation_from < test_from, "data.temporal.validation_from (", config.validation_from,
        ") must be before data.temporal.test_from (", config.test_from, ")");

  Split split;
  const auto items = static_cast<size_t>(dataset.item_count());
  std::vector<int64_t> seen_in_validation(items, -1), seen_in_test(items, -1);
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    const Vector<const int64_t> times = dataset.timestamps.slice(dataset.offsets[s], dataset.length(s));
    const int64_t validation = std::lower_bound(times.begin(), times.end(), validation_from) - times.begin();
    const int64_t test = std::lower_bound(times.begin(), times.end(), test_from) - times.begin();
    split.training_ends.push_back(dataset.offsets[s] + validation);
    add_window(split.validation, split.validation_without_history, dataset, s, validation, test, seen_in_validation);
    add_window(split.test, split.test_without_history, dataset, s, test, times.size(), seen_in_test);
  }
  const auto refuse_empty = [&](const EvaluationCases& cases, const char* name, int64_t without_history) {
    const auto [first, last] = std::minmax_element(dataset.timestamps.begin(), dataset.timestamps.end());
    CHECK(cases.size() > 0, "the temporal split leaves no sequence for ", name, ": ", grouped(without_history),
          " have interactions in its time but none before; the data goes from ",
          format_ticks(*first, dataset.timestamp_unit), " to ", format_ticks(*last, dataset.timestamp_unit));
  };
  refuse_empty(split.validation, "validation", split.validation_without_history);
  refuse_empty(split.test, "test", split.test_without_history);
  return split;
}

}  // namespace

Split make_split(const Dataset& dataset, const DataConfig& config) {
  Split split = config.split == "temporal" ? temporal(dataset, config.temporal) : leave_one_out(dataset);
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    split.training_interactions += split.training_ends[s] - dataset.offsets[s];
  }
  return split;
}

std::string unasked_text(const Split& split) {
  std::string text;
  const auto add = [&](int64_t sequences, const std::string& one, const std::string& many) {
    if (sequences == 0) return;
    text += (text.empty() ? "" : "; ") + grouped(sequences) + (sequences == 1 ? one : many);
  };
  add(split.too_short, " sequence has fewer than 3 interactions: it is trained on, but not evaluated",
      " sequences have fewer than 3 interactions: they are trained on, but not evaluated");
  add(split.validation_without_history, " sequence begins in the time of validation, which cannot ask about it",
      " sequences begin in the time of validation, which cannot ask about them");
  add(split.test_without_history, " sequence begins in the time of test, which cannot ask about it",
      " sequences begin in the time of test, which cannot ask about them");
  return text;
}

std::vector<int64_t> training_item_counts(const Dataset& dataset, const Split& split) {
  std::vector<int64_t> counts(static_cast<size_t>(dataset.item_count()));
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    for (int64_t i = dataset.offsets[s]; i < split.training_ends[s]; ++i) ++counts[dataset.items[i]];
  }
  return counts;
}

}  // namespace itemloom
