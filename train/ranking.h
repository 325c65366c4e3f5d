// Ranks of held-out items against the whole catalogue, and the head of such a ranking.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/device.h"
#include "core/view.h"
#include "train/scorers.h"

namespace itemloom {

// What is known and what is asked for. The model may see the end of the history only; "seen" means all of it.
struct RankingCase {
  History history;
  Vector<const int32_t> targets;  // at least one, all distinct
};

// One rank a target, case after case (train/metrics.h says what a rank is). With seen items kept, every item is a
// candidate; with seen items excluded, those of the history are not, but the case's targets always are.
struct TargetRanks {
  std::vector<double> excluded;
  std::vector<double> kept;
};

// Ranks by every scorer; each case is scored once a scorer, `batch_size` cases at a time (fewer where the catalogue is
// large). The ranks depend on neither that nor the number of threads. Throws Error when a score is not a number.
std::vector<TargetRanks> rank_targets(std::span<Scorer* const> scorers, std::span<const RankingCase> cases,
                                      int64_t batch_size);

// The rows of the largest tile in which such cases are ranked, and the bytes that it takes of a device beside what the
// scorer takes for itself: found on a device that only plans.
struct RankingTile {
  int64_t rows, bytes;
};
RankingTile largest_ranking_tile(Device& planning, std::span<const RankingCase> cases, int64_t items,
                                 int64_t batch_size);

struct Recommendation {
  int32_t item;
  float score;
};

// For each history the `count` best items (fewer where the catalogue has no more), best first, of equals the lower id
// first; with `exclude_seen` no item of the history.
std::vector<std::vector<Recommendation>> recommend(Scorer& scorer, std::span<const History> histories, int64_t count,
                                                   bool exclude_seen);

}  // namespace itemloom
