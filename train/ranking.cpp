#include "train/ranking.h"

#include <algorithm>

#include "core/check.h"
#include "kernels/rank_counts.h"

namespace itemloom {
namespace {

double mean_rank(int64_t above, int64_t equal) {
  return 1.0 + static_cast<double>(above) + static_cast<double>(equal - 1) / 2.0;
}

// Some cases as CountRanks wants them. The targets of a case are no seen items of it.
struct CaseLists {
  std::vector<History> histories;
  ItemLists targets, seen;

  void assign(std::span<const RankingCase> cases) {
    histories.clear();
    targets.clear();
    seen.clear();
    for (const RankingCase& one : cases) {
      histories.push_back(one.history);
      targets.add_row(one.targets);
      seen.add_distinct_row(one.history, one.targets);
    }
  }
};

// On the tile's device; counts of the targets, one row behind the other.
Vector<RankCounts> count_ranks(Device& device, ScoreTile& tile, Matrix<const float> scores, const CaseLists& lists) {
  Tape& tape = tile.tape();
  const Vector<RankCounts> counts = tape.keep<RankCounts>(static_cast<int64_t>(lists.targets.items.size()));
  run(device, CountRanks{.scores = scores,
                         .target_offsets = tape.on_device(lists.targets.offsets),
                         .targets = tape.on_device(lists.targets.items),
                         .seen_offsets = tape.on_device(lists.seen.offsets),
                         .seen = tape.on_device(lists.seen.items),
                         .counts = counts});
  return counts;
}

// Appends the ranks of the lists' targets.
void rank_tile(Scorer& scorer, const CaseLists& lists, TargetRanks& ranks) {
  const Matrix<float> scores = scorer.tile().begin(static_cast<int64_t>(lists.histories.size()), scorer.items());
  scorer.score(lists.histories, scores);
  const Vector<RankCounts> counted = count_ranks(scorer.device(), scorer.tile(), scores, lists);
  std::vector<RankCounts> counts(lists.targets.items.size());
  scorer.device().copy_to_host(counted.data(), counts.data(), counted.size());
  for (size_t target = 0; target < counts.size(); ++target) {
    const RankCounts& one = counts[target];
    CHECK(one.equal > 0, "the score of item number ", lists.targets.items[target],
          " is not a number: the model has diverged; train it with a lower optimizer.learning_rate");
    ranks.kept.push_back(mean_rank(one.above, one.equal));
    ranks.excluded.push_back(mean_rank(one.above - one.seen_above, one.equal - one.seen_equal));
  }
}

int64_t tile_rows(std::span<const RankingCase> cases, int64_t items, int64_t batch_size) {
  return ScoreTile::rows(std::min(batch_size, static_cast<int64_t>(cases.size())), items);
}

// body(cases of a tile) for one tile after the other.
template <class Body>
void for_tiles(std::span<const RankingCase> cases, int64_t items, int64_t batch_size, const Body& body) {
  const auto rows = static_cast<size_t>(tile_rows(cases, items, batch_size));
  for (size_t first = 0; first < cases.size(); first += rows) {
    body(cases.subspan(first, std::min(rows, cases.size() - first)));
  }
}

void check_cases(std::span<const RankingCase> cases, int64_t items) {
  for (const RankingCase& ranked : cases) {
    CHECK(ranked.targets.size() > 0, "a case to rank has no target");
    for (int32_t target : ranked.targets) {
      CHECK(target >= 0 && target < items, "a target is item number ", target, " of ", items);
    }
  }
}

}  // namespace

std::vector<TargetRanks> rank_targets(std::span<Scorer* const> scorers, std::span<const RankingCase> cases,
                                      int64_t batch_size) {
  std::vector<TargetRanks> ranks(scorers.size());
  if (scorers.empty() || cases.empty()) return ranks;
  const int64_t items = scorers.front()->items();
  check_cases(cases, items);
  for (const Scorer* scorer : scorers) {
    CHECK(scorer->items() == items, "scorers of ", items, " and of ", scorer->items(), " items");
  }
  CaseLists lists;
  for_tiles(cases, items, batch_size, [&](std::span<const RankingCase> tile) {
    lists.assign(tile);
    for (size_t scorer = 0; scorer < scorers.size(); ++scorer) rank_tile(*scorers[scorer], lists, ranks[scorer]);
  });
  return ranks;
}

RankingTile largest_ranking_tile(Device& planning, std::span<const RankingCase> cases, int64_t items,
                                 int64_t batch_size) {
  RankingTile largest{.rows = cases.empty() ? 0 : tile_rows(cases, items, batch_size), .bytes = 0};
  size_t targets = 0, seen = 0;
  for_tiles(cases, items, batch_size, [&](std::span<const RankingCase> tile) {
    size_t tile_targets = 0, tile_seen = 0;
    for (const RankingCase& one : tile) {
      tile_targets += static_cast<size_t>(one.targets.size());
      tile_seen += static_cast<size_t>(one.history.size());
    }
    targets = std::max(targets, tile_targets);
    seen = std::max(seen, tile_seen);
  });
  if (largest.rows == 0) return largest;
  CaseLists lists;
  lists.targets.offsets.resize(static_cast<size_t>(largest.rows) + 1);
  lists.seen.offsets.resize(static_cast<size_t>(largest.rows) + 1);
  lists.targets.items.resize(targets);
  lists.seen.items.resize(seen);
  ScoreTile tile(planning);
  count_ranks(planning, tile, tile.begin(largest.rows, items), lists);
  largest.bytes = tile.used();
  return largest;
}

std::vector<std::vector<Recommendation>> recommend(Scorer& scorer, std::span<const History> histories, int64_t count,
                                                   bool exclude_seen) {
  std::vector<std::vector<Recommendation>> results(histories.size());
  const int64_t items = scorer.items(), wanted = std::min(count, items);
  const auto rows = static_cast<size_t>(ScoreTile::rows(static_cast<int64_t>(histories.size()), items, wanted));
  for (size_t first = 0; first < histories.size(); first += rows) {
    const auto asked = histories.subspan(first, std::min(rows, histories.size() - first));
    ScoreTile& tile = scorer.tile();
    scorer.score(asked, tile.begin(static_cast<int64_t>(asked.size()), items));
    if (exclude_seen) {
      ItemLists seen;
      for (const History& history : asked) seen.add_distinct_row(history, Vector<const int32_t>::none());
      tile.exclude(seen);
    }
    const BestItems best = tile.best(wanted);
    for (size_t row = 0; row < asked.size(); ++row) {
      best.for_row(static_cast<int64_t>(row), [&](int32_t item, float score) {
        results[first + row].push_back({item, score});
      });
    }
  }
  return results;
}

}  // namespace itemloom
