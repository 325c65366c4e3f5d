#include "data/pair_counts.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.h"

namespace itemloom {

std::string count_unit_name(CountUnit unit) {
  return unit == CountUnit::kBasket ? "basket" : "sequence";
}

PairCounts::PairCounts(Vector<const int64_t> begins, Vector<const int64_t> ends, Vector<const int32_t> items,
                       Vector<const int32_t> baskets, int64_t item_count)
    : unit_(baskets ? CountUnit::kBasket : CountUnit::kSequence), unit_offsets_(1, 0) {
  CHECK(begins.size() == ends.size(), begins.size(), " sequences begin and ", ends.size(), " end");
  CHECK(!baskets || baskets.size() == items.size(), baskets.size(), " basket labels for ", items.size(),
        " interactions");
  int64_t interactions = 0;
  for (int64_t sequence = 0; sequence < begins.size(); ++sequence) interactions += ends[sequence] - begins[sequence];
  unit_items_.reserve(static_cast<size_t>(interactions));
  item_offsets_.assign(static_cast<size_t>(item_count) + 1, 0);
  if (baskets) {
    count_baskets(begins, ends, items, baskets);
  } else {
    count_sequences(begins, ends, items);
  }
  CHECK(units() <= std::numeric_limits<int32_t>::max(), units(), " ", count_unit_name(unit_),
        "s are more than pairs can be counted in");
  invert(item_count);
}

void PairCounts::count_sequences(Vector<const int64_t> begins, Vector<const int64_t> ends,
                                 Vector<const int32_t> items) {
  std::vector<int64_t> last_sequence(item_offsets_.size() - 1, -1);
  for (int64_t sequence = 0; sequence < begins.size(); ++sequence) {
    if (begins[sequence] == ends[sequence]) continue;
    for (int64_t index = begins[sequence]; index < ends[sequence]; ++index) {
      int64_t& last = last_sequence[static_cast<size_t>(items[index])];
      if (last != sequence) unit_items_.push_back(items[index]);
      last = sequence;
    }
    unit_offsets_.push_back(static_cast<int64_t>(unit_items_.size()));
  }
}

void PairCounts::count_baskets(Vector<const int64_t> begins, Vector<const int64_t> ends, Vector<const int32_t> items,
                               Vector<const int32_t> baskets) {
  std::vector<std::pair<int32_t, int32_t>> members;  // basket, item
  for (int64_t sequence = 0; sequence < begins.size(); ++sequence) {
    members.clear();
    for (int64_t index = begins[sequence]; index < ends[sequence]; ++index) {
      members.emplace_back(baskets[index], items[index]);
    }
    std::sort(members.begin(), members.end());
    members.erase(std::unique(members.begin(), members.end()), members.end());
    for (size_t index = 0; index < members.size(); ++index) {
      unit_items_.push_back(members[index].second);
      if (index + 1 == members.size() || members[index + 1].first != members[index].first) {
        unit_offsets_.push_back(static_cast<int64_t>(unit_items_.size()));
      }
    }
  }
}

void PairCounts::invert(int64_t item_count) {
  for (int32_t item : unit_items_) ++item_offsets_[static_cast<size_t>(item) + 1];
  for (size_t item = 0; item < static_cast<size_t>(item_count); ++item) item_offsets_[item + 1] += item_offsets_[item];
  item_units_.resize(unit_items_.size());
  std::vector<int64_t> next(item_offsets_.begin(), item_offsets_.end() - 1);
  for (int64_t unit = 0; unit < units(); ++unit) {
    const size_t begin = static_cast<size_t>(unit_offsets_[static_cast<size_t>(unit)]);
    const size_t end = static_cast<size_t>(unit_offsets_[static_cast<size_t>(unit) + 1]);
    for (size_t index = begin; index < end; ++index) {
      int64_t& place = next[static_cast<size_t>(unit_items_[index])];
      item_units_[static_cast<size_t>(place++)] = static_cast<int32_t>(unit);
    }
  }
}

void PairCounts::add_row(int64_t item, Vector<int32_t> counts, std::vector<int32_t>& touched) const {
  CHECK(counts.size() == item_count(), "a row of ", counts.size(), " counts for ", item_count(), " items");
  for (int64_t place = item_offsets_[static_cast<size_t>(item)]; place < item_offsets_[static_cast<size_t>(item) + 1];
       ++place) {
    const size_t unit = static_cast<size_t>(item_units_[static_cast<size_t>(place)]);
    for (int64_t index = unit_offsets_[unit]; index < unit_offsets_[unit + 1]; ++index) {
      const int32_t other = unit_items_[static_cast<size_t>(index)];
      if (counts[other]++ == 0) touched.push_back(other);
    }
  }
}

}  // namespace itemloom
