#include "data/pair_counts.h"

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "tests/support/kernels.h"

using namespace itemloom;
using namespace itemloom::test;

namespace {

template <class T>
Vector<const T> view(const std::vector<T>& values) {
  return Vector<const T>(values.data(), values.size());
}

const Vector<const int32_t> kNoBaskets = Vector<const int32_t>::none();

// Checks what was touched, too.
std::vector<int32_t> row_of(const PairCounts& counts, int64_t item) {
  std::vector<int32_t> row(static_cast<size_t>(counts.item_count()), 0), touched;
  counts.add_row(item, Vector<int32_t>(row.data(), row.size()), touched);
  const std::set<int32_t> distinct(touched.begin(), touched.end());
  REQUIRE(distinct.size() == touched.size());
  for (size_t other = 0; other < row.size(); ++other) {
    REQUIRE((row[other] > 0) == (distinct.count(static_cast<int32_t>(other)) > 0));
  }
  return row;
}

struct Interactions {
  std::vector<int64_t> begins, ends;
  std::vector<int32_t> items, baskets;
};

// Sequences with repeats, gaps between the ranges, empty ranges, and basket labels that interleave and recur.
Interactions random_interactions(int64_t sequences, int64_t item_count, uint64_t seed) {
  Interactions data;
  int64_t draw = 0;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    const int64_t length = random_int(seed, draw++, 12), held_out = random_int(seed, draw++, 3);
    data.begins.push_back(static_cast<int64_t>(data.items.size()));
    data.ends.push_back(data.begins.back() + length);
    for (int64_t index = 0; index < length + held_out; ++index) {
      data.items.push_back(static_cast<int32_t>(random_int(seed, draw++, item_count)));
      data.baskets.push_back(static_cast<int32_t>(random_int(seed, draw++, 3)));
    }
  }
  return data;
}

}  // namespace

TEST_CASE("pairs count once a sequence", "[pair_counts]") {
  // Sequence 0: 0 1 0 2; sequence 1: empty; sequence 2: 1 0 (its last interaction, item 3, is held out); sequence 3: 2.
  const std::vector<int32_t> items = {0, 1, 0, 2, 1, 0, 3, 2};
  const std::vector<int64_t> begins = {0, 4, 4, 7}, ends = {4, 4, 6, 8};
  const PairCounts counts(view(begins), view(ends), view(items), kNoBaskets, 5);
  REQUIRE(counts.unit() == CountUnit::kSequence);
  REQUIRE(count_unit_name(counts.unit()) == "sequence");
  REQUIRE(counts.units() == 3);
  REQUIRE(counts.item_count() == 5);
  REQUIRE(counts.units_of(0) == 2);
  REQUIRE(counts.units_of(2) == 2);
  REQUIRE(counts.units_of(3) == 0);
  REQUIRE(row_of(counts, 0) == std::vector<int32_t>{2, 2, 1, 0, 0});
  REQUIRE(row_of(counts, 1) == std::vector<int32_t>{2, 2, 1, 0, 0});
  REQUIRE(row_of(counts, 2) == std::vector<int32_t>{1, 1, 2, 0, 0});
  REQUIRE(row_of(counts, 3) == std::vector<int32_t>{0, 0, 0, 0, 0});
}

TEST_CASE("pairs count once a basket", "[pair_counts]") {
  // One user with baskets 7 {0, 1}, 9 {1, 2} and 7 again {1, 3}: the same basket, its rows apart; another user whose
  // basket 7 {0, 3} is one of its own.
  const std::vector<int32_t> items = {0, 1, 2, 1, 1, 3, 0, 3};
  const std::vector<int32_t> baskets = {7, 7, 9, 9, 7, 7, 7, 7};
  const std::vector<int64_t> begins = {0, 6}, ends = {6, 8};
  const PairCounts counts(view(begins), view(ends), view(items), view(baskets), 4);
  REQUIRE(counts.unit() == CountUnit::kBasket);
  REQUIRE(count_unit_name(counts.unit()) == "basket");
  REQUIRE(counts.units() == 3);
  REQUIRE(row_of(counts, 0) == std::vector<int32_t>{2, 1, 0, 2});
  REQUIRE(row_of(counts, 1) == std::vector<int32_t>{1, 2, 1, 1});
  REQUIRE(row_of(counts, 2) == std::vector<int32_t>{0, 1, 1, 0});
  REQUIRE(row_of(counts, 3) == std::vector<int32_t>{2, 1, 0, 2});
}

TEST_CASE("pair counts agree with sets of pairs", "[pair_counts]") {
  const int64_t item_count = 17;
  const Interactions data = random_interactions(200, item_count, 3);
  for (const bool with_baskets : {false, true}) {
    std::map<std::pair<int64_t, int32_t>, std::set<int32_t>> units;
    for (size_t sequence = 0; sequence < data.begins.size(); ++sequence) {
      for (int64_t index = data.begins[sequence]; index < data.ends[sequence]; ++index) {
        const size_t place = static_cast<size_t>(index);
        units[{static_cast<int64_t>(sequence), with_baskets ? data.baskets[place] : 0}].insert(data.items[place]);
      }
    }
    std::vector<std::vector<int32_t>> expected(item_count, std::vector<int32_t>(item_count, 0));
    for (const auto& [unit, members] : units) {
      for (int32_t a : members) {
        for (int32_t b : members) ++expected[a][b];
      }
    }
    const PairCounts counts(view(data.begins), view(data.ends), view(data.items),
                            with_baskets ? view(data.baskets) : kNoBaskets, item_count);
    REQUIRE(counts.units() == static_cast<int64_t>(units.size()));
    for (int64_t item = 0; item < item_count; ++item) {
      INFO("item " << item << ", baskets " << with_baskets);
      REQUIRE(row_of(counts, item) == expected[item]);
      REQUIRE(counts.units_of(item) == expected[item][item]);
    }
    // Rows may be counted side by side.
    const Threads threads(3);
    std::vector<std::vector<int32_t>> rows(item_count, std::vector<int32_t>(item_count, 0)), touched(item_count);
    parallel_for(item_count, [&](int64_t item) {
      counts.add_row(item, Vector<int32_t>(rows[item].data(), item_count), touched[item]);
    });
    REQUIRE(rows == expected);
  }
}

TEST_CASE("pair counts of nothing and of mismatched input", "[pair_counts]") {
  const std::vector<int64_t> none;
  const std::vector<int32_t> no_items;
  const PairCounts empty(view(none), view(none), view(no_items), kNoBaskets, 2);
  REQUIRE(empty.units() == 0);
  REQUIRE(row_of(empty, 1) == std::vector<int32_t>{0, 0});
  const std::vector<int64_t> begins = {0}, ends = {2};
  const std::vector<int32_t> items = {0, 1}, baskets = {0};
  REQUIRE_THROWS_AS(PairCounts(view(begins), view(ends), view(items), view(baskets), 2), Error);
  REQUIRE_THROWS_AS(PairCounts(view(begins), view(none), view(items), kNoBaskets, 2), Error);
}
