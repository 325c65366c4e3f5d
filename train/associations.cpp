#include "train/associations.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"

namespace itemloom {

PairCounts training_pair_counts(const Dataset& dataset, const Split& split, bool by_basket) {
  return PairCounts(Vector<const int64_t>(dataset.offsets.data(), dataset.sequence_count()),
                    Vector<const int64_t>(split.training_ends.data(), split.training_ends.size()), dataset.items,
                    by_basket ? dataset.baskets : Vector<const int32_t>::none(), dataset.item_count());
}

Associations::Associations(OpenedRun& run)
    : run_(run),
      scorer_(*run.device, run.instance->model(), run.config.data.max_length),
      counts_(training_pair_counts(run.dataset, run.split, static_cast<bool>(run.dataset.baskets))),
      item_counts_(training_item_counts(run.dataset, run.split)) {
  for (int64_t count : item_counts_) interactions_ += static_cast<double>(count);
}

void Associations::score(int32_t first, int64_t rows) {
  ItemLists selves;
  std::vector<int32_t> ids(static_cast<size_t>(rows));
  std::vector<History> histories;
  for (int64_t row = 0; row < rows; ++row) {
    ids[static_cast<size_t>(row)] = first + static_cast<int32_t>(row);
    histories.emplace_back(&ids[static_cast<size_t>(row)], 1);
    selves.add_row(histories.back());
  }
  scorer_.score(histories, scorer_.tile().begin(rows, scorer_.items()));
  scorer_.tile().exclude(selves);
}

Association Associations::describe(int32_t item, int32_t other, double log_probability, int32_t count) const {
  const double units = static_cast<double>(counts_.units()), together = count;
  const double with_item = static_cast<double>(counts_.units_of(item));
  const double with_other = static_cast<double>(counts_.units_of(other));
  const double share =
      static_cast<double>(std::max<int64_t>(1, item_counts_[static_cast<size_t>(other)])) / interactions_;
  return {.item = other,
          .score = static_cast<float>(std::exp(log_probability)),
          .log_ratio = static_cast<float>(log_probability - std::log(share)),
          .count = count,
          .support = together / units,
          .confidence = with_item > 0 ? together / with_item : 0,
          .lift = count > 0 ? together * units / (with_item * with_other) : 0};
}

std::vector<std::vector<Association>> Associations::best_of_block(int32_t first, int64_t rows, int64_t count) {
  score(first, rows);
  const std::vector<double> log_sums = scorer_.tile().log_sum_exp();
  const BestItems best = scorer_.tile().best(std::min(count, scorer_.items() - 1));
  std::vector<std::vector<Association>> result(static_cast<size_t>(rows));
  counted_.resize(static_cast<size_t>(thread_count()));
  parallel_for_with_thread(rows, [&](int64_t row, int thread) {
    CountedRow& counted = counted_[static_cast<size_t>(thread)];
    const int32_t item = first + static_cast<int32_t>(row);
    counted.assign(counts_, item);
    best.for_row(row, [&](int32_t other, float score) {
      result[static_cast<size_t>(row)].push_back(describe(item, other, score - log_sums[static_cast<size_t>(row)],
                                                          counted.counts[static_cast<size_t>(other)]));
    });
  });
  return result;
}

// Few items are ever together with one: only what was touched is set back.
void Associations::CountedRow::assign(const PairCounts& pairs, int32_t item) {
  counts.resize(static_cast<size_t>(pairs.item_count()));
  for (int32_t other : touched) counts[static_cast<size_t>(other)] = 0;
  touched.clear();
  pairs.add_row(item, Vector<int32_t>(counts.data(), counts.size()), touched);
}

std::vector<Association> Associations::best(int32_t item, int64_t count) {
  return best_of_block(item, 1, count).front();
}

Association Associations::between(int32_t item, int32_t other) {
  CHECK(item != other, "an item is not associated with itself; name two different items");
  score(item, 1);
  const double log_probability = scorer_.tile().score(0, other) - scorer_.tile().log_sum_exp().front();
  CountedRow counted;
  counted.assign(counts_, item);
  return describe(item, other, log_probability, counted.counts[static_cast<size_t>(other)]);
}

}  // namespace itemloom
