#include "train/evaluate.h"

#include <algorithm>
#include <cstring>

#include "core/hdf5.h"

namespace itemloom {
namespace {

// The values of all ranks, one after the other.
std::vector<double> gather_all(Communicator& communicator, const std::vector<double>& mine) {
  std::vector<double> values;
  const std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(double));
  for (const std::string& of_rank : communicator.all_gather_text(bytes)) {
    const size_t begin = values.size();
    values.resize(begin + of_rank.size() / sizeof(double));
    std::memcpy(values.data() + begin, of_rank.data(), of_rank.size());
  }
  return values;
}

// Adds the metrics of each case; `ranks` holds a case's targets one after the other.
void add_metrics(const EvaluationCases& cases, const std::vector<Metric>& metrics, const std::vector<double>& ranks,
                 double* sums) {
  std::vector<double> ascending;
  for (const EvaluationCase& one : cases.cases) {
    ascending.assign(ranks.begin() + one.targets_begin, ranks.begin() + one.targets_end);
    std::sort(ascending.begin(), ascending.end());
    for (size_t index = 0; index < metrics.size(); ++index) {
      sums[index] += metric_value(metrics[index], Vector<const double>(ascending.data(), ascending.size()));
    }
  }
}

// For every list of ranks the means over the cases of all ranks of the communicator. The sums go from rank to rank and
// each adds its cases to them: the additions, and so the bits, are those of one process, and no rank holds the figures
// of all cases.
std::vector<std::vector<double>> mean_metrics(const EvaluationCases& cases, const std::vector<Metric>& metrics,
                                              const std::vector<const std::vector<double>*>& lists,
                                              Communicator& communicator) {
  std::vector<double> sums(lists.size() * metrics.size());
  for (int rank = 0; rank < communicator.size(); ++rank) {
    for (size_t list = 0; rank == communicator.rank() && list < lists.size(); ++list) {
      add_metrics(cases, metrics, *lists[list], sums.data() + list * metrics.size());
    }
    communicator.broadcast(sums.data(), static_cast<int64_t>(sums.size() * sizeof(double)), rank);
  }
  for (double& sum : sums) sum /= static_cast<double>(cases.size_of_all());
  std::vector<std::vector<double>> means;
  for (size_t list = 0; list < lists.size(); ++list) {
    const auto begin = sums.begin() + static_cast<ptrdiff_t>(list * metrics.size());
    means.emplace_back(begin, begin + static_cast<ptrdiff_t>(metrics.size()));
  }
  return means;
}

nlohmann::ordered_json named(const std::vector<Metric>& metrics, const std::vector<double>& values) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (size_t index = 0; index < metrics.size(); ++index) object[metrics[index].name] = values[index];
  return object;
}

nlohmann::ordered_json figures(const EvaluationResult& result, std::vector<double> EvaluationLine::*which) {
  nlohmann::ordered_json object = {{"metrics", named(result.metrics, result.lines.front().*which)},
                                   {"references", nlohmann::ordered_json::object()}};
  for (size_t line = 1; line < result.lines.size(); ++line) {
    object["references"][result.lines[line].name] = named(result.metrics, result.lines[line].*which);
  }
  return object;
}

}  // namespace

nlohmann::ordered_json EvaluationResult::model_metrics() const {
  return named(metrics, seen_items == "exclude" ? lines.front().excluded : lines.front().kept);
}

double EvaluationResult::model_metric(const std::string& name) const {
  const nlohmann::ordered_json values = model_metrics();
  CHECK(values.contains(name), "evaluation.metrics does not hold ", name);
  return values[name];
}

nlohmann::ordered_json EvaluationResult::to_json() const {
  nlohmann::ordered_json object = {
      {"split", split}, {"seen_items", seen_items}, {"cases", cases}, {"tie_rule", kTieRule}};
  const nlohmann::ordered_json excluded = figures(*this, &EvaluationLine::excluded);
  const nlohmann::ordered_json kept = figures(*this, &EvaluationLine::kept);
  object.update(seen_items == "exclude" ? excluded : kept);
  object["seen_items_excluded"] = excluded;
  object["seen_items_kept"] = kept;
  return object;
}

std::vector<RankingCase> ranking_cases(const Dataset& dataset, const EvaluationCases& cases) {
  std::vector<RankingCase> questions;
  questions.reserve(cases.cases.size());
  for (const EvaluationCase& one : cases.cases) {
    questions.push_back({.history = dataset.items.slice(dataset.offsets[one.sequence], one.history_end),
                         .targets = cases.targets_of(one)});
  }
  return questions;
}

EvaluationResult evaluate(const Dataset& dataset, const EvaluationCases& cases, const std::string& split,
                          const EvaluationConfig& config, const std::vector<NamedScorer>& scorers,
                          Communicator& communicator) {
  CHECK(cases.size_of_all() > 0, "there is nothing to evaluate in the ", split, " split");
  const std::vector<RankingCase> questions = ranking_cases(dataset, cases);
  std::vector<int64_t> target_counts;
  for (const RankingCase& one : questions) target_counts.push_back(one.targets.size());
  std::vector<Scorer*> rankers;
  for (const NamedScorer& one : scorers) rankers.push_back(one.scorer);
  std::vector<TargetRanks> ranks = rank_targets(rankers, questions, config.batch_size);
  EvaluationResult result{.split = split,
                          .seen_items = config.seen_items,
                          .cases = cases.size_of_all(),
                          .metrics = parse_metrics(config.metrics),
                          .lines = {},
                          .ranks = {}};
  std::vector<const std::vector<double>*> lists;
  for (const TargetRanks& one : ranks) lists.insert(lists.end(), {&one.excluded, &one.kept});
  const std::vector<std::vector<double>> means = mean_metrics(cases, result.metrics, lists, communicator);
  for (size_t line = 0; line < scorers.size(); ++line) {
    result.lines.push_back({.name = scorers[line].name, .excluded = means[2 * line], .kept = means[2 * line + 1]});
  }
  result.ranks = std::move(ranks.front());
  return result;
}

EvaluationResult evaluate(const Dataset& dataset, const EvaluationCases& cases, const std::string& split,
                          const EvaluationConfig& config, const std::vector<NamedScorer>& scorers) {
  return evaluate(dataset, cases, split, config, scorers, *make_self_communicator());
}

void gather_ranks(EvaluationResult& result, Communicator& communicator) {
  result.ranks.excluded = gather_all(communicator, result.ranks.excluded);
  result.ranks.kept = gather_all(communicator, result.ranks.kept);
}

void dump_ranks(const Dataset& dataset, const EvaluationCases& cases, const EvaluationResult& result,
                const std::string& path) {
  std::vector<int64_t> sequences, lengths;
  std::vector<std::string> ids, target_ids;
  for (const EvaluationCase& one : cases.cases) {
    for (int64_t target = one.targets_begin; target < one.targets_end; ++target) {
      target_ids.emplace_back(dataset.item_ids[cases.targets[static_cast<size_t>(target)]]);
      sequences.push_back(one.sequence);
      lengths.push_back(one.history_end);
      ids.emplace_back(dataset.sequence_ids[static_cast<int32_t>(one.sequence)]);
    }
  }
  Hdf5Writer file(path);
  write_header(file, "ranks", 1);
  file.write_attribute("/", "split", result.split);
  file.write_attribute("/", "tie_rule", std::string(kTieRule));
  file.write_attribute("/", "dataset_sha256", dataset.hash);
  file.write("/case/sequence", sequences);
  file.write("/case/sequence_id", ids);
  file.write("/case/history_length", lengths);
  file.write("/case/target", cases.targets);
  file.write("/case/target_id", target_ids);
  file.write("/case/rank_seen_excluded", result.ranks.excluded);
  file.write("/case/rank_seen_kept", result.ranks.kept);
  file.commit();
}

}  // namespace itemloom
