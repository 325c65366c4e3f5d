#include "train/associations.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "kernels/top_k.h"

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

void Associations::probabilities(int32_t first, int64_t count) {
  const int64_t items = run_.dataset.item_count();
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::vector<History> histories;
  for (int64_t row = 0; row < count; ++row) {
    ids[static_cast<size_t>(row)] = first + static_cast<int32_t>(row);
    histories.emplace_back(&ids[static_cast<size_t>(row)], 1);
  }
  scores_.resize(static_cast<size_t>(count * items));
  const Matrix<float> scores(scores_.data(), count, items);
  scorer_.score(histories, scores);
  parallel_for(count, [&](int64_t row) {
    float* z = scores.row(row);
    z[first + row] = -std::numeric_limits<float>::infinity();
    const float greatest = *std::max_element(z, z + items);
    double sum = 0;
    for (int64_t item = 0; item < items; ++item) sum += std::exp(double{z[item]} - greatest);
    for (int64_t item = 0; item < items; ++item) {
      z[item] = static_cast<float>(std::exp(double{z[item]} - greatest) / sum);
    }
  });
}

Association Associations::describe(int32_t item, int32_t other, float score, Vector<const int32_t> counts) const {
  const double units = static_cast<double>(counts_.units()), count = counts[other];
  const double with_item = static_cast<double>(counts_.units_of(item));
  const double with_other = static_cast<double>(counts_.units_of(other));
  const double share =
      static_cast<double>(std::max<int64_t>(1, item_counts_[static_cast<size_t>(other)])) / interactions_;
  return {.item = other,
          .score = score,
          .log_ratio = static_cast<float>(std::log(double{score}) - std::log(share)),
          .count = counts[other],
          .support = count / units,
          .confidence = with_item > 0 ? count / with_item : 0,
          .lift = count > 0 ? count * units / (with_item * with_other) : 0};
}

std::vector<std::vector<Association>> Associations::best_of_block(int32_t first, int64_t rows, int64_t count) {
  const int64_t items = run_.dataset.item_count();
  const int64_t kept = std::min(count, items - 1);
  probabilities(first, rows);
  std::vector<int32_t> indices(static_cast<size_t>(rows * kept));
  std::vector<float> values(indices.size());
  itemloom::run(*run_.device, TopK{.scores = Matrix<const float>(scores_.data(), rows, items),
                                   .indices = Matrix<int32_t>(indices.data(), rows, kept),
                                   .values = Matrix<float>(values.data(), rows, kept)});
  std::vector<std::vector<Association>> result(static_cast<size_t>(rows));
  parallel_for(rows, [&](int64_t row) {
    std::vector<int32_t> counts(static_cast<size_t>(items));
    const int32_t item = first + static_cast<int32_t>(row);
    counts_.row(item, Vector<int32_t>(counts.data(), items));
    for (int64_t rank = 0; rank < kept; ++rank) {
      const size_t place = static_cast<size_t>(row * kept + rank);
      if (indices[place] == item || indices[place] < 0) continue;
      result[static_cast<size_t>(row)].push_back(
          describe(item, indices[place], values[place], Vector<const int32_t>(counts.data(), items)));
    }
  });
  return result;
}

std::vector<Association> Associations::best(int32_t item, int64_t count) {
  return best_of_block(item, 1, count).front();
}

Association Associations::between(int32_t item, int32_t other) {
  CHECK(item != other, "an item is not associated with itself; name two different items");
  probabilities(item, 1);
  std::vector<int32_t> counts(static_cast<size_t>(run_.dataset.item_count()));
  counts_.row(item, Vector<int32_t>(counts.data(), counts.size()));
  return describe(item, other, scores_[static_cast<size_t>(other)],
                  Vector<const int32_t>(counts.data(), counts.size()));
}

}  // namespace itemloom
