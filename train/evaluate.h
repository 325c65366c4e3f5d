// Full-ranking evaluation: every held-out item against the whole catalogue, the model beside two reference lines under
// the same protocol.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "data/dataset.h"
#include "data/split.h"
#include "train/config.h"
#include "train/metrics.h"
#include "train/ranking.h"
#include "train/scorers.h"

namespace itemloom {

// Means over the cases of one scorer's metrics, in the order of EvaluationResult::metrics.
struct EvaluationLine {
  std::string name;
  std::vector<double> excluded, kept;  // seen items excluded, kept
};

struct EvaluationResult {
  std::string split;
  std::string seen_items;  // which of the two figures are the run's: "exclude" or "keep"
  int64_t cases;
  std::vector<Metric> metrics;
  std::vector<EvaluationLine> lines;  // the model first
  TargetRanks ranks;                  // the model's, one a target of this rank's cases

  // The model's configured figures: {"ndcg@10": ...}, and one of them.
  nlohmann::ordered_json model_metrics() const;
  double model_metric(const std::string& name) const;

  // {"split", "seen_items", "cases", "tie_rule", "metrics": {...}, "references": {name: {...}}} with the configured
  // figures, and both under "seen_items_excluded" and "seen_items_kept": {"metrics", "references"}.
  nlohmann::ordered_json to_json() const;
};

// Ranks the cases of a split by the scorers; `scorers.front()` is the model. Each rank has its part of the
// cases, and sums run over all cases in order, so the figures depend on neither batch size nor threads nor the number
// of ranks. A collective.
struct NamedScorer {
  std::string name;
  Scorer* scorer;
};
EvaluationResult evaluate(const Dataset& dataset, const EvaluationCases& cases, const std::string& split,
                          const EvaluationConfig& config, const std::vector<NamedScorer>& scorers,
                          Communicator& communicator);
// What this rank is asked then.
std::vector<RankingCase> ranking_cases(const Dataset& dataset, const EvaluationCases& cases);
// By one process on its own.
EvaluationResult evaluate(const Dataset& dataset, const EvaluationCases& cases, const std::string& split,
                          const EvaluationConfig& config, const std::vector<NamedScorer>& scorers);

// Puts the ranks of all cases in place of those of this rank's. A collective.
void gather_ranks(EvaluationResult& result, Communicator& communicator);

// Every target's rank by the model, of all cases, one entry a target (HDF5, kind "ranks", version 1):
// /case/{sequence,sequence_id,history_length,target,target_id,rank_seen_excluded,rank_seen_kept}.
void dump_ranks(const Dataset& dataset, const EvaluationCases& cases, const EvaluationResult& result,
                const std::string& path);

}  // namespace itemloom
