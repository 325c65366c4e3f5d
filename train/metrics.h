// Ranking metrics of a held-out case from the ranks of its targets.
//
// The rank of a target among its candidates is 1 + (candidates that score above it) + (others that score the same) / 2:
// the mean of the ranks that the tied candidates share, so no order among equals is ever chosen. Ranks are multiples of
// one half. A target is a hit at cut-off k when its rank is at most k. Where several targets of a case are tied, more
// than k of them may have a rank within k; the k best count, as no list of k holds more.
//
// With n targets, ascending ranks r_1 .. r_n and h hits at k:
//
//   hit@k        1 when h > 0, else 0
//   recall@k     h / n
//   precision@k  h / k
//   mrr@k        1 / r_1 when h > 0, else 0; without a cut-off always 1 / r_1
//   ndcg@k       sum_{i <= h} 1 / log2(r_i + 1), over its greatest value sum_{i <= min(n, k)} 1 / log2(i + 1)
//                (Järvelin and Kekäläinen, TOIS 2002, with binary gains)
//   map@k        sum_{i <= h} i / r_i, over min(n, k); without a cut-off k is unlimited
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/view.h"

namespace itemloom {

inline constexpr const char* kTieRule = "mean rank of ties: 1 + items scoring above + other items scoring the same / 2";

struct Metric {
  enum class Kind { kHit, kRecall, kPrecision, kMrr, kNdcg, kMap };

  Kind kind;
  int64_t cutoff;    // INT64_MAX when there is none
  std::string name;  // as it was given: "ndcg@10"
};

// "hit@10", "mrr". Throws Error that lists the names when it is no metric.
Metric parse_metric(const std::string& text);
// All of a list; throws Error when it is empty or names one twice.
std::vector<Metric> parse_metrics(const std::vector<std::string>& texts);

// The value for one case with these ranks, ascending and at least one.
double metric_value(const Metric& metric, Vector<const double> ranks);

}  // namespace itemloom
