#include "train/ranking.h"

#include <algorithm>
#include <limits>

#include "core/arena.h"
#include "core/check.h"
#include "core/tape.h"
#include "kernels/rank_counts.h"
#include "kernels/top_k.h"

namespace itemloom {
namespace {

// Scores held at a time, unless the catalogue is so large that kLeastCases rows take more.
constexpr int64_t kTileScores = int64_t{1} << 24;
constexpr int64_t kLeastCases = 16;

int64_t tile_rows(int64_t items, int64_t batch_size) {
  return std::min(batch_size, std::max(kLeastCases, kTileScores / std::max<int64_t>(items, 1)));
}

double mean_rank(int64_t above, int64_t equal) {
  return 1.0 + static_cast<double>(above) + static_cast<double>(equal - 1) / 2.0;
}

// Some cases as CountRanks wants them. The targets of a case are no seen items of it.
struct Tile {
  std::vector<History> histories;
  std::vector<int64_t> target_offsets, seen_offsets;
  std::vector<int32_t> targets, seen;

  void assign(std::span<const RankingCase> cases) {
    histories.clear();
    targets.clear();
    seen.clear();
    target_offsets.assign(1, 0);
    seen_offsets.assign(1, 0);
    for (const RankingCase& one : cases) {
      histories.push_back(one.history);
      targets.insert(targets.end(), one.targets.begin(), one.targets.end());
      target_offsets.push_back(static_cast<int64_t>(targets.size()));
      add_seen(one);
      seen_offsets.push_back(static_cast<int64_t>(seen.size()));
    }
  }

 private:
  // The distinct items of the history that are not among the targets.
  void add_seen(const RankingCase& one) {
    const auto begin = static_cast<std::ptrdiff_t>(seen.size());
    seen.insert(seen.end(), one.history.begin(), one.history.end());
    std::sort(seen.begin() + begin, seen.end());
    seen.erase(std::unique(seen.begin() + begin, seen.end()), seen.end());
    for (const int32_t target : one.targets) {
      const auto place = std::lower_bound(seen.begin() + begin, seen.end(), target);
      if (place != seen.end() && *place == target) seen.erase(place);
    }
  }
};

// Scores of a scorer in the memory of its device, and what is counted there.
class TileRanker {
 public:
  TileRanker(Scorer& scorer, int64_t rows)
      : scorer_(scorer),
        device_(scorer.device()),
        scores_(device_.allocate(rows * scorer.items() * static_cast<int64_t>(sizeof(float)))),
        arena_(device_.kind()) {}

  // Appends the ranks of the tile's targets.
  void rank(const Tile& tile, TargetRanks& ranks) {
    const auto rows = static_cast<int64_t>(tile.histories.size());
    const auto targets = static_cast<int64_t>(tile.targets.size());
    const Matrix<float> scores(scores_.as<float>(rows * scorer_.items()).data(), rows, scorer_.items());
    scorer_.score(tile.histories, scores);
    arena_.reset();
    Tape tape(device_, arena_, Mode::kInference);
    const Vector<RankCounts> counts = tape.keep<RankCounts>(targets);
    run(device_, CountRanks{.scores = scores,
                            .target_offsets = tape.on_device(tile.target_offsets),
                            .targets = tape.on_device(tile.targets),
                            .seen_offsets = tape.on_device(tile.seen_offsets),
                            .seen = tape.on_device(tile.seen),
                            .counts = counts});
    counts_.resize(tile.targets.size());
    device_.copy_to_host(counts.data(), counts_.data(), targets);
    for (size_t target = 0; target < counts_.size(); ++target) {
      const RankCounts& one = counts_[target];
      CHECK(one.equal > 0, "the score of item number ", tile.targets[target],
            " is not a number: the model has diverged; train it with a lower optimizer.learning_rate");
      ranks.kept.push_back(mean_rank(one.above, one.equal));
      ranks.excluded.push_back(mean_rank(one.above - one.seen_above, one.equal - one.seen_equal));
    }
  }

 private:
  Scorer& scorer_;
  Device& device_;
  DeviceBlock scores_;
  Arena arena_;
  std::vector<RankCounts> counts_;
};

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
  const int64_t rows = std::min(tile_rows(items, batch_size), static_cast<int64_t>(cases.size()));
  std::vector<TileRanker> rankers;
  rankers.reserve(scorers.size());
  for (Scorer* scorer : scorers) {
    CHECK(scorer->items() == items, "scorers of ", items, " and of ", scorer->items(), " items");
    rankers.emplace_back(*scorer, rows);
  }
  Tile tile;
  for (size_t first = 0; first < cases.size(); first += static_cast<size_t>(rows)) {
    tile.assign(cases.subspan(first, std::min(static_cast<size_t>(rows), cases.size() - first)));
    for (size_t scorer = 0; scorer < scorers.size(); ++scorer) rankers[scorer].rank(tile, ranks[scorer]);
  }
  return ranks;
}

std::vector<std::vector<Recommendation>> recommend(Scorer& scorer, std::span<const History> histories, int64_t count,
                                                   bool exclude_seen) {
  CHECK(scorer.device().kind() == DeviceKind::kCpu, "recommendations are looked for on the CPU");
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
    run(scorer.device(), TopK{.scores = scores,
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
