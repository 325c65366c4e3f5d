// A task a row. The loop over the catalogue has no branch and is left to the compiler's vectors.
#include "kernels/rank_counts.h"

#include "core/parallel.h"

namespace itemloom {
namespace {

RankCounts count_against(float threshold, Vector<const float> scores, Vector<const int32_t> seen) {
  RankCounts counts{0, 0, 0, 0};
  for (const float score : scores) {
    counts.above += !(score <= threshold);
    counts.equal += score == threshold;
  }
  for (const int32_t column : seen) {
    counts.seen_above += !(scores[column] <= threshold);
    counts.seen_equal += scores[column] == threshold;
  }
  return counts;
}

}  // namespace

void launch(CpuStream, const CountRanks& args) {
  parallel_for(args.scores.rows(), [&](int64_t row) {
    const Vector<const float> scores(args.scores.row(row), args.scores.columns());
    const int64_t first_seen = args.seen_offsets[row];
    const Vector<const int32_t> seen = args.seen.slice(first_seen, args.seen_offsets[row + 1] - first_seen);
    for (int64_t target = args.target_offsets[row]; target < args.target_offsets[row + 1]; ++target) {
      args.counts[target] = count_against(scores[args.targets[target]], scores, seen);
    }
  });
}

}  // namespace itemloom
