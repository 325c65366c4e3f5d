#include "data/split.h"

#include <algorithm>

#include "core/check.h"
#include "core/parallel.h"
#include "data/text.h"
#include "data/timestamp.h"

namespace itemloom {
namespace {

constexpr int64_t kLeastLength = 3;  // one item each for training, validation and test

// What of a sequence is asked for.
struct Asked {
  int64_t begin, end;

  bool nothing() const { return begin == end; }
  bool has_history() const { return begin > 0; }
};

// How a sequence is cut: its first items are for training, those from `validation` on for validation, those from `test`
// on for test.
struct Cut {
  int64_t validation, test, end;

  Asked in_validation() const { return {validation, test}; }
  Asked in_test() const { return {test, end}; }
};

// `last_seen_in` is the last sequence that asked for an item.
void add_case(EvaluationCases& cases, const Dataset& dataset, int64_t sequence, const Asked& asked,
              std::vector<int64_t>& last_seen_in) {
  const Vector<const int32_t> items = dataset.sequence(sequence);
  const auto targets_begin = static_cast<int64_t>(cases.targets.size());
  for (int64_t i = asked.begin; i < asked.end; ++i) {
    if (last_seen_in[items[i]] == sequence) continue;
    last_seen_in[items[i]] = sequence;
    cases.targets.push_back(items[i]);
  }
  cases.cases.push_back({sequence, asked.begin, targets_begin, static_cast<int64_t>(cases.targets.size())});
}

// Two walks, so that no more than the part is ever held.
EvaluationCases make_cases(const Dataset& dataset, const CasePart& part, FunctionRef<Asked(int64_t sequence)> asked_of,
                           int64_t& without_history) {
  int64_t count = 0;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    const Asked asked = asked_of(s);
    if (!asked.nothing()) ++(asked.has_history() ? count : without_history);
  }
  const int64_t first = count * part.index / part.count, last = count * (part.index + 1) / part.count;
  EvaluationCases cases;
  cases.elsewhere = count - (last - first);
  cases.cases.reserve(static_cast<size_t>(last - first));
  cases.targets.reserve(static_cast<size_t>(last - first));
  std::vector<int64_t> last_seen_in(static_cast<size_t>(dataset.item_count()), -1);
  int64_t number = 0;
  for (int64_t s = 0; s < dataset.sequence_count() && number < last; ++s) {
    const Asked asked = asked_of(s);
    if (asked.nothing() || !asked.has_history()) continue;
    if (number++ >= first) add_case(cases, dataset, s, asked, last_seen_in);
  }
  return cases;
}

Split cut_all(const Dataset& dataset, const CasePart& part, FunctionRef<Cut(int64_t sequence)> cut_of) {
  Split split;
  split.training_ends.reserve(static_cast<size_t>(dataset.sequence_count()));
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    const int64_t training = cut_of(s).validation;
    split.training_ends.push_back(dataset.offsets[s] + training);
    split.training_interactions += training;
  }
  split.validation = make_cases(
      dataset, part, [&](int64_t s) { return cut_of(s).in_validation(); }, split.validation_without_history);
  split.test = make_cases(
      dataset, part, [&](int64_t s) { return cut_of(s).in_test(); }, split.test_without_history);
  return split;
}

Split leave_one_out(const Dataset& dataset, const CasePart& part) {
  Split split = cut_all(dataset, part, [&](int64_t s) {
    const int64_t n = dataset.length(s);
    return n < kLeastLength ? Cut{n, n, n} : Cut{n - 2, n - 1, n};
  });
  int64_t longest = 0;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    longest = std::max(longest, dataset.length(s));
    split.too_short += dataset.length(s) < kLeastLength;
  }
  CHECK(split.test.size_of_all() > 0, "no sequence is long enough to be evaluated: the longest of ",
        grouped(dataset.sequence_count()), " has ", longest, longest == 1 ? " interaction" : " interactions",
        ", and leave_one_out needs ", kLeastLength);
  return split;
}

Split temporal(const Dataset& dataset, const TemporalSplitConfig& config, const CasePart& part) {
  CHECK(dataset.timestamps, "data.split is \"temporal\", but the data has no timestamps");
  const int64_t validation_from =
      ticks_of(config.validation_from, dataset.timestamp_unit, "data.temporal.validation_from");
  const int64_t test_from = ticks_of(config.test_from, dataset.timestamp_unit, "data.temporal.test_from");
  CHECK(validation_from < test_from, "data.temporal.validation_from (", config.validation_from,
        ") must be before data.temporal.test_from (", config.test_from, ")");

  const Split split = cut_all(dataset, part, [&](int64_t s) {
    const Vector<const int64_t> times = dataset.timestamps.slice(dataset.offsets[s], dataset.length(s));
    return Cut{std::lower_bound(times.begin(), times.end(), validation_from) - times.begin(),
               std::lower_bound(times.begin(), times.end(), test_from) - times.begin(), times.size()};
  });
  const auto refuse_empty = [&](const EvaluationCases& cases, const char* name, int64_t without_history) {
    if (cases.size_of_all() > 0) return;
    const auto [first, last] = std::minmax_element(dataset.timestamps.begin(), dataset.timestamps.end());
    fail("the temporal split leaves no sequence for ", name, ": ", grouped(without_history),
         " have interactions in its time but none before; the data goes from ",
         format_ticks(*first, dataset.timestamp_unit), " to ", format_ticks(*last, dataset.timestamp_unit));
  };
  refuse_empty(split.validation, "validation", split.validation_without_history);
  refuse_empty(split.test, "test", split.test_without_history);
  return split;
}

}  // namespace

Split make_split(const Dataset& dataset, const DataConfig& config, const CasePart& part) {
  return config.split == "temporal" ? temporal(dataset, config.temporal, part) : leave_one_out(dataset, part);
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
