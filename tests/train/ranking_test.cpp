#include "train/ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "tests/support/kernels.h"

using namespace itemloom;
using namespace itemloom::test;

namespace {

template <class T>
Vector<const T> view(const std::vector<T>& values) {
  return Vector<const T>(values.data(), values.size());
}

// Scores with few distinct values (negative ones, zeros of both signs), a function of the history alone.
class CoarseScorer : public Scorer {
 public:
  CoarseScorer(int64_t items, int64_t values, uint64_t seed) : items_(items), values_(values), seed_(seed) {}
  int64_t items() const override { return items_; }
  float value(History history, int64_t item) const {
    uint64_t key = seed_;
    for (int32_t seen : history) key = mix64(key ^ static_cast<uint64_t>(seen));
    const float score = static_cast<float>(random_int(key, item, values_) - values_ / 2) * 0.25f;
    return score == 0 && item % 2 ? -0.0f : score;
  }
  void score(std::span<const History> histories, Matrix<float> scores) override {
    largest_call = std::max(largest_call, scores.rows());
    for (int64_t row = 0; row < scores.rows(); ++row) {
      for (int64_t item = 0; item < items_; ++item) {
        scores.row(row)[item] = value(histories[static_cast<size_t>(row)], item);
      }
    }
  }
  int64_t largest_call = 0;

 private:
  int64_t items_, values_;
  uint64_t seed_;
};

// Histories with repeats (one in five empty), targets of which some were seen.
struct Cases {
  std::vector<std::vector<int32_t>> histories, targets;
  std::vector<RankingCase> cases;

  Cases(int64_t count, int64_t items, uint64_t seed) {
    int64_t draw = 0;
    for (int64_t index = 0; index < count; ++index) {
      std::vector<int32_t> history, wanted;
      const int64_t length = index % 5 == 0 ? 0 : random_int(seed, draw++, 2 * items);
      for (int64_t place = 0; place < length; ++place)
        history.push_back(static_cast<int32_t>(random_int(seed, draw++, items)));
      const int64_t asked = 1 + random_int(seed, draw++, 4);
      while (static_cast<int64_t>(wanted.size()) < std::min(asked, items)) {
        const int32_t target = static_cast<int32_t>(random_int(seed, draw++, items));
        if (std::find(wanted.begin(), wanted.end(), target) == wanted.end()) wanted.push_back(target);
      }
      histories.push_back(history);
      targets.push_back(wanted);
    }
    for (size_t index = 0; index < histories.size(); ++index) {
      cases.push_back({.history = view(histories[index]), .targets = view(targets[index])});
    }
  }
};

// The definition, one candidate at a time.
double naive_rank(const CoarseScorer& scorer, const RankingCase& one, int32_t target, bool exclude_seen) {
  double rank = 1;
  for (int32_t item = 0; item < scorer.items(); ++item) {
    if (item == target) continue;
    const bool seen = std::count(one.history.begin(), one.history.end(), item) > 0;
    const bool asked = std::count(one.targets.begin(), one.targets.end(), item) > 0;
    if (exclude_seen && seen && !asked) continue;
    const float score = scorer.value(one.history, item), wanted = scorer.value(one.history, target);
    rank += score > wanted ? 1 : score == wanted ? 0.5 : 0;
  }
  return rank;
}

// Always the same scores.
class FixedScorer : public Scorer {
 public:
  explicit FixedScorer(std::vector<float> scores) : scores_(std::move(scores)) {}
  int64_t items() const override { return static_cast<int64_t>(scores_.size()); }
  void score(std::span<const History>, Matrix<float> scores) override {
    for (int64_t row = 0; row < scores.rows(); ++row) std::copy(scores_.begin(), scores_.end(), scores.row(row));
  }

 private:
  std::vector<float> scores_;
};

std::vector<int32_t> items_of(const std::vector<Recommendation>& list) {
  std::vector<int32_t> items;
  for (const Recommendation& one : list) items.push_back(one.item);
  return items;
}

}  // namespace

TEST_CASE("ranks by hand", "[ranking]") {
  FixedScorer scorer({5, 4, 4, 4, 1, 9});
  Scorer* scorers[] = {&scorer};
  const std::vector<int32_t> history = {5, 2, 5}, targets = {3, 0}, seen_target = {2}, none;
  const std::vector<RankingCase> cases = {{.history = view(history), .targets = view(targets)},
                                          {.history = view(history), .targets = view(seen_target)},
                                          {.history = History(history.data(), 0), .targets = view(seen_target)}};
  const TargetRanks ranks = rank_targets(scorers, cases, 2)[0];
  // Item 3: 9 and 5 above, two others equal; without the seen 5 and 2 one above and one equal. Item 2 was seen and is
  // asked for: it stays a candidate.
  REQUIRE(ranks.kept == std::vector<double>{4, 2, 4, 4});
  REQUIRE(ranks.excluded == std::vector<double>{2.5, 1, 3, 4});
}

TEST_CASE("ranks agree with the definition for any batch size and thread count", "[ranking]") {
  for (const int64_t items : {1, 3, 33, 257}) {
    CoarseScorer coarse(items, 5, 7), finer(items, 1000, 8);
    Scorer* scorers[] = {&coarse, &finer};
    const Cases data(61, items, 9);
    std::vector<TargetRanks> first;
    for (const int64_t batch : {1, 7, 61, 1000}) {
      for (const int threads : {1, 2, 3}) {
        const Threads scope(threads);
        const std::vector<TargetRanks> ranks = rank_targets(scorers, data.cases, batch);
        if (first.empty()) first = ranks;
        for (size_t scorer = 0; scorer < 2; ++scorer) {
          REQUIRE(same_bits(ranks[scorer].excluded, first[scorer].excluded));
          REQUIRE(same_bits(ranks[scorer].kept, first[scorer].kept));
        }
      }
    }
    REQUIRE(coarse.largest_call == 61);
    size_t place = 0;
    for (const RankingCase& one : data.cases) {
      for (int32_t target : one.targets) {
        INFO("items " << items << ", target " << target);
        REQUIRE(first[0].excluded[place] == naive_rank(coarse, one, target, true));
        REQUIRE(first[0].kept[place] == naive_rank(coarse, one, target, false));
        REQUIRE(first[1].excluded[place] == naive_rank(finer, one, target, true));
        REQUIRE(first[1].kept[place] == naive_rank(finer, one, target, false));
        ++place;
      }
    }
    REQUIRE(place == first[0].kept.size());
  }
}

TEST_CASE("scores that are not numbers never help", "[ranking]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  FixedScorer scorer({nan, 2, 1});
  Scorer* scorers[] = {&scorer};
  const std::vector<int32_t> history = {2}, good = {1}, broken = {0};
  REQUIRE(rank_targets(scorers, std::vector<RankingCase>{{.history = view(history), .targets = view(good)}}, 1)[0]
              .excluded == std::vector<double>{2});
  REQUIRE_THROWS_WITH(
      rank_targets(scorers, std::vector<RankingCase>{{.history = view(history), .targets = view(broken)}}, 1),
      Catch::Contains("item number 0 is not a number"));
}

TEST_CASE("nothing to rank", "[ranking]") {
  FixedScorer scorer({1, 2});
  Scorer* scorers[] = {&scorer};
  REQUIRE(rank_targets(scorers, {}, 8)[0].kept.empty());
  const std::vector<int32_t> history = {0}, outside = {2};
  REQUIRE_THROWS_AS(
      rank_targets(scorers, std::vector<RankingCase>{{.history = view(history), .targets = view(outside)}}, 8), Error);
}

TEST_CASE("recommendations leave out what was seen when asked to", "[ranking]") {
  FixedScorer scorer({5, 4, 4, 4, 1, 9});
  const std::vector<int32_t> first = {5, 2, 5}, all = {0, 1, 2, 3, 4, 5};
  const std::vector<History> histories = {view(first), History(first.data(), 0), view(all)};
  const auto excluded = recommend(scorer, histories, 4, true);
  REQUIRE(items_of(excluded[0]) == std::vector<int32_t>{0, 1, 3, 4});
  REQUIRE(items_of(excluded[1]) == std::vector<int32_t>{5, 0, 1, 2});
  REQUIRE(excluded[1][0].score == 9);
  REQUIRE(excluded[2].empty());
  const auto kept = recommend(scorer, histories, 40, false);
  REQUIRE(items_of(kept[0]) == std::vector<int32_t>{5, 0, 1, 2, 3, 4});
  REQUIRE(items_of(kept[2]) == items_of(kept[0]));
  REQUIRE(recommend(scorer, {}, 4, true).empty());
}
