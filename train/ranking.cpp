#include "train/ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/parallel.h"
#include "kernels/top_k.h"

namespace itemloom {
namespace {

// Scores held at a time, unless the catalogue is so large that kLeastCases rows take more.
constexpr int64_t kTileScores = int64_t{1} << 24;
constexpr int64_t kLeastCases = 16;

int64_t tile_rows(int64_t items, int64_t batch_size) {
  return std::min(batch_size, std::max(kLeastCases, kTileScores / std::max<int64_t>(items, 1)));
}

// The distinct items of a history that are not among the targets.
void list_excluded(const RankingCase& ranked, std::vector<int32_t>& excluded) {
  excluded.assign(ranked.history.begin(), ranked.history.end());
  std::sort(excluded.begin(), excluded.end());
  excluded.erase(std::unique(excluded.begin(), excluded.end()), excluded.end());
  for (int32_t target : ranked.targets) {
    const auto place = std::lower_bound(excluded.begin(), excluded.end(), target);
    if (place != excluded.end() && *place == target) excluded.erase(place);
  }
}

struct Counts {
  int64_t above = 0;
  int64_t equal = 0;
};

// A score that is not a number counts as above, so that a broken model never looks good.
Counts count_scores(Vector<const float> scores, float threshold) {
  int32_t above = 0, equal = 0;
  for (float score : scores) {
    above += !(score <= threshold);
    equal += score == threshold;
  }
  return {above, equal};
}

double mean_rank(const Counts& counts) {
  return 1.0 + static_cast<double>(counts.above) + static_cast<double>(counts.equal - 1) / 2.0;
}

// Fills in the ranks of one case; `excluded` and `kept` have one place a target.
void rank_case(const RankingCase& ranked, const std::vector<int32_t>& seen, Vector<const float> scores,
               double* excluded, double* kept) {
  for (int64_t index = 0; index < ranked.targets.size(); ++index) {
    const float threshold = scores[ranked.targets[index]];
    CHECK(!std::isnan(threshold), "the score of item number ", ranked.targets[index],
          " is not a number: the model has diverged; train it with a lower optimizer.learning_rate");
    Counts counts = count_scores(scores, threshold);
    kept[index] = mean_rank(counts);
    for (int32_t item : seen) {
      counts.above -= !(scores[item] <= threshold);
      counts.equal -= scores[item] == threshold;
    }
    excluded[index] = mean_rank(counts);
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
  std::vector<size_t> first_rank(1, 0);
  for (const RankingCase& ranked : cases) first_rank.push_back(first_rank.back() + ranked.targets.size());
  for (TargetRanks& of_scorer : ranks) {
    of_scorer.excluded.resize(first_rank.back());
    of_scorer.kept.resize(first_rank.back());
  }
  const int64_t rows = std::min(tile_rows(items, batch_size), static_cast<int64_t>(cases.size()));
  const HostBlock memory(rows * items * static_cast<int64_t>(sizeof(float)));
  std::vector<std::vector<int32_t>> seen(static_cast<size_t>(rows));
  std::vector<History> histories;
  for (size_t first = 0; first < cases.size(); first += histories.size()) {
    const auto tile = cases.subspan(first, std::min(static_cast<size_t>(rows), cases.size() - first));
    histories.clear();
    for (const RankingCase& ranked : tile) histories.push_back(ranked.history);
    const Matrix<float> scores(reinterpret_cast<float*>(memory.data()), tile.size(), items);
    parallel_for(scores.rows(),
                 [&](int64_t row) { list_excluded(tile[static_cast<size_t>(row)], seen[static_cast<size_t>(row)]); });
    for (size_t scorer = 0; scorer < scorers.size(); ++scorer) {
      CHECK(scorers[scorer]->items() == items, "scorers of ", items, " and of ", scorers[scorer]->items(), " items");
      scorers[scorer]->score(histories, scores);
      parallel_for(scores.rows(), [&](int64_t row) {
        const size_t place = first_rank[first + static_cast<size_t>(row)];
        rank_case(tile[static_cast<size_t>(row)], seen[static_cast<size_t>(row)],
                  Vector<const float>(scores.row(row), items), &ranks[scorer].excluded[place],
                  &ranks[scorer].kept[place]);
      });
    }
  }
  return ranks;
}

std::vector<std::vector<Recommendation>> recommend(Device& device, Scorer& scorer, std::span<const History> histories,
                                                   int64_t count, bool exclude_seen) {
  std::vector<std::vector<Recommendation>> results(histories.size());
  const int64_t items = scorer.items(), best = std::min(count, items);
  const size_t rows = static_cast<size_t>(tile_rows(items, kTileScores));
  std::vector<float> memory, values;
  std::vector<int32_t> indices;
  for (size_t first = 0; first < histories.size(); first += rows) {
    const auto tile = histories.subspan(first, std::min(rows, histories.size() - first));
    memory.resize(tile.size() * static_cast<size_t>(items));
    indices.resize(tile.size() * static_cast<size_t>(best));
    values.resize(indices.size());
    const Matrix<float> scores(memory.data(), tile.size(), items);
    scorer.score(tile, scores);
    if (exclude_seen) {
      for (int64_t row = 0; row < scores.rows(); ++row) {
        for (int32_t item : tile[static_cast<size_t>(row)]) {
          scores.row(row)[item] = -std::numeric_limits<float>::infinity();
        }
      }
    }
    run(device, TopK{.scores = scores,
                     .indices = Matrix<int32_t>(indices.data(), tile.size(), best),
                     .values = Matrix<float>(values.data(), tile.size(), best)});
    for (size_t place = 0; place < indices.size(); ++place) {
      if (indices[place] < 0) continue;
      results[first + place / static_cast<size_t>(best)].push_back({indices[place], values[place]});
    }
  }
  return results;
}

}  // namespace itemloom
