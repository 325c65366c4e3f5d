#include "train/score_tile.h"

#include "kernels/log_sum_exp.h"
#include "kernels/top_k.h"

namespace itemloom {

void ItemLists::clear() {
  offsets.assign(1, 0);
  items.clear();
}

void ItemLists::add_row(Vector<const int32_t> row) {
  items.insert(items.end(), row.begin(), row.end());
  offsets.push_back(static_cast<int64_t>(items.size()));
}

void ItemLists::add_distinct_row(Vector<const int32_t> row, Vector<const int32_t> without) {
  const auto first = static_cast<std::ptrdiff_t>(items.size());
  items.insert(items.end(), row.begin(), row.end());
  std::sort(items.begin() + first, items.end());
  items.erase(std::unique(items.begin() + first, items.end()), items.end());
  for (const int32_t item : without) {
    const auto place = std::lower_bound(items.begin() + first, items.end(), item);
    if (place != items.end() && *place == item) items.erase(place);
  }
  offsets.push_back(static_cast<int64_t>(items.size()));
}

Matrix<float> ScoreTile::begin(int64_t rows, int64_t items) {
  arena_.reset();
  tape_.emplace(device_, arena_, Mode::kInference);
  scores_ = Matrix<float>(tape_->keep<float>(rows * items).data(), rows, items);
  return scores_;
}

void ScoreTile::exclude(const ItemLists& lists) {
  run(device_,
      ExcludeColumns{
          .offsets = tape_->on_device(lists.offsets), .columns = tape_->on_device(lists.items), .scores = scores_});
}

std::vector<double> ScoreTile::log_sum_exp() {
  const Vector<double> sums = tape_->keep<double>(scores_.rows());
  run(device_, LogSumExp{.x = scores_, .y = sums});
  std::vector<double> result(static_cast<size_t>(sums.size()));
  device_.copy_to_host(sums.data(), result.data(), sums.size());
  return result;
}

BestItems ScoreTile::best(int64_t count) {
  const int64_t rows = scores_.rows(), places = rows * count;
  const Vector<int32_t> items = tape_->keep<int32_t>(places);
  const Vector<float> values = tape_->keep<float>(places);
  run(device_, TopK{.scores = scores_,
                    .indices = Matrix<int32_t>(items.data(), rows, count),
                    .values = Matrix<float>(values.data(), rows, count)});
  BestItems result{.count = count,
                   .items = std::vector<int32_t>(static_cast<size_t>(places)),
                   .scores = std::vector<float>(static_cast<size_t>(places))};
  device_.copy_to_host(items.data(), result.items.data(), places);
  device_.copy_to_host(values.data(), result.scores.data(), places);
  return result;
}

float ScoreTile::score(int64_t row, int64_t item) {
  float value = 0;
  device_.copy_to_host(scores_.row(row) + item, &value, 1);
  return value;
}

}  // namespace itemloom
