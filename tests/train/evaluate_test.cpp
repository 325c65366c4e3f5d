#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/hdf5.h"
#include "tests/support/kernels.h"
#include "tests/support/process.h"
#include "train/associations.h"
#include "train/trainer.h"

using namespace itemloom;
using namespace itemloom::test;

namespace {

struct Storage {
  std::vector<int64_t> offsets = {0};
  std::vector<int32_t> items;
};

Dataset make_dataset(const std::vector<std::vector<int32_t>>& sequences, int32_t items) {
  auto storage = std::make_shared<Storage>();
  Dataset dataset;
  for (const auto& sequence : sequences) {
    storage->items.insert(storage->items.end(), sequence.begin(), sequence.end());
    storage->offsets.push_back(static_cast<int64_t>(storage->items.size()));
    dataset.sequence_ids.add(join_message("user-", dataset.sequence_ids.size()));
  }
  for (int32_t item = 0; item < items; ++item) dataset.item_ids.add(join_message("item-", item));
  dataset.offsets = Vector<const int64_t>(storage->offsets.data(), storage->offsets.size());
  dataset.items = Vector<const int32_t>(storage->items.data(), storage->items.size());
  dataset.item_counts.assign(static_cast<size_t>(items), 1);
  dataset.hash = "the dataset's hash";
  dataset.storage = storage;
  return dataset;
}

// Random sequences, every third with items that come again.
Dataset random_dataset(int64_t count, int32_t items, uint64_t seed) {
  std::vector<std::vector<int32_t>> sequences;
  int64_t draw = 0;
  for (int64_t index = 0; index < count; ++index) {
    std::vector<int32_t>& sequence = sequences.emplace_back();
    const int64_t length = random_int(seed, draw++, 25), below = index % 3 ? items : std::max(1, items / 6);
    for (int64_t place = 0; place < length; ++place) {
      sequence.push_back(static_cast<int32_t>(random_int(seed, draw++, below)));
    }
  }
  return make_dataset(sequences, items);
}

// Cases with several targets each, as a temporal split asks.
EvaluationCases cases_with_many_targets(const Dataset& dataset, uint64_t seed) {
  EvaluationCases cases;
  for (int64_t sequence = 0; sequence < dataset.sequence_count(); ++sequence) {
    const int64_t length = dataset.length(sequence);
    if (length < 3) continue;
    const int64_t history_end = 1 + random_int(seed, sequence, length - 1);
    const int64_t first = static_cast<int64_t>(cases.targets.size());
    for (int64_t place = history_end; place < length; ++place) {
      const int32_t target = dataset.sequence(sequence)[place];
      if (std::find(cases.targets.begin() + first, cases.targets.end(), target) == cases.targets.end()) {
        cases.targets.push_back(target);
      }
    }
    cases.cases.push_back({sequence, history_end, first, static_cast<int64_t>(cases.targets.size())});
  }
  return cases;
}

// Few distinct scores, a function of the history.
class CoarseScorer : public Scorer {
 public:
  explicit CoarseScorer(int64_t items) : items_(items) {}
  int64_t items() const override { return items_; }
  void score(std::span<const History> histories, Matrix<float> scores) override {
    for (int64_t row = 0; row < scores.rows(); ++row) {
      uint64_t key = 1;
      for (int32_t item : histories[static_cast<size_t>(row)]) key = mix64(key ^ static_cast<uint64_t>(item));
      for (int64_t item = 0; item < items_; ++item) {
        scores.row(row)[item] = static_cast<float>(random_int(key, item, 6));
      }
    }
  }

 private:
  int64_t items_;
};

// Mean ndcg@k and recall@k by their definitions, from sorted lists of candidates.
struct NaiveFigures {
  double ndcg = 0, recall = 0;
};
NaiveFigures naive_figures(const Dataset& dataset, const EvaluationCases& cases, Scorer& scorer, int64_t k,
                           bool exclude_seen) {
  NaiveFigures figures;
  for (const EvaluationCase& one : cases.cases) {
    const std::vector<History> histories = {dataset.sequence(one.sequence).slice(0, one.history_end)};
    std::vector<float> scores(static_cast<size_t>(scorer.items()));
    scorer.score(histories, Matrix<float>(scores.data(), 1, scorer.items()));
    const Vector<const int32_t> targets = cases.targets_of(one);
    std::set<int32_t> candidates;
    for (int32_t item = 0; item < scorer.items(); ++item) candidates.insert(item);
    if (exclude_seen) {
      for (int32_t item : histories[0]) candidates.erase(item);
    }
    for (int32_t target : targets) candidates.insert(target);
    std::vector<double> ranks;
    for (int32_t target : targets) {
      double rank = 1;
      for (int32_t item : candidates) {
        if (item == target) continue;
        if (scores[item] > scores[target]) rank += 1;
        if (scores[item] == scores[target]) rank += 0.5;
      }
      ranks.push_back(rank);
    }
    std::sort(ranks.begin(), ranks.end());
    double gain = 0, ideal = 0, hits = 0;
    for (size_t place = 0; place < ranks.size() && static_cast<int64_t>(place) < k; ++place) {
      ideal += 1 / std::log2(double(place) + 2);
      if (ranks[place] > double(k)) continue;
      gain += 1 / std::log2(ranks[place] + 1);
      hits += 1;
    }
    figures.ndcg += gain / ideal / double(cases.size());
    figures.recall += hits / double(ranks.size()) / double(cases.size());
  }
  return figures;
}

// The model's stand-in beside the two reference lines.
class Lines {
 public:
  Lines(const Dataset& dataset, const Split& split, Scorer& model)
      : counts_(training_item_counts(dataset, split)),
        popularity_(Vector<const int64_t>(counts_.data(), counts_.size())),
        item_knn_(training_pair_counts(dataset, split, false)),
        scorers_({{"model", &model}, {"popularity", &popularity_}, {"item_knn", &item_knn_}}) {}
  const std::vector<NamedScorer>& scorers() const { return scorers_; }

 private:
  std::vector<int64_t> counts_;
  PopularityScorer popularity_;
  ItemKnnScorer item_knn_;
  std::vector<NamedScorer> scorers_;
};

EvaluationConfig config_for(const std::string& seen_items) {
  EvaluationConfig config;
  config.metrics = {"ndcg@10", "recall@10", "mrr"};
  config.seen_items = seen_items;
  return config;
}

}  // namespace

TEST_CASE("an evaluation by hand", "[evaluate]") {
  // Training parts: 0 1 2 | 1 0 | 0 | 4, the last one too short to be split. Test: 4 after 0 1 2 3, 2 after 1 0 3, and
  // 1 after 0 3.
  const Dataset dataset = make_dataset({{0, 1, 2, 3, 4}, {1, 0, 3, 2}, {0, 3, 1}, {4}}, 5);
  const Split split = make_split(dataset, DataConfig());
  REQUIRE(split.test.size() == 3);
  CoarseScorer model(5);
  const Lines lines(dataset, split, model);
  EvaluationConfig config = config_for("exclude");
  config.metrics = {"mrr", "hit@1"};
  const EvaluationResult result = evaluate(dataset, split.test, "test", config, lines.scorers());
  // Popularity counts 3 2 1 0 1. Seen excluded: item 4 alone is left for the first; 2 and 4 tie for the second; 1 leads
  // for the third. Kept: 4 ties with 2 behind 0 and 1, and 2 with 4; 1 is second.
  const EvaluationLine& popularity = result.lines[1];
  REQUIRE(popularity.name == "popularity");
  REQUIRE(popularity.excluded[0] == Approx((1 + 1 / 1.5 + 1) / 3));
  REQUIRE(popularity.excluded[1] == Approx(2.0 / 3));
  REQUIRE(popularity.kept[0] == Approx((1 / 3.5 + 1 / 3.5 + 1 / 2.0) / 3));
  REQUIRE(popularity.kept[1] == 0);
  // Item-kNN: c_01 = 2, c_02 = c_12 = 1, nothing with 3 and 4, so s_01 = .82, s_02 = .58, s_12 = .71. Kept: 4 ties with
  // 3 behind 0 1 2; 2 (1.28) leads 0 and 1 (.82); 1 (.82) leads for the third.
  const EvaluationLine& item_knn = result.lines[2];
  REQUIRE(item_knn.name == "item_knn");
  REQUIRE(item_knn.excluded[0] == 1);
  REQUIRE(item_knn.kept[0] == Approx((1 / 4.5 + 1 + 1) / 3));
}

TEST_CASE("figures agree with the definition", "[evaluate]") {
  const Dataset dataset = random_dataset(120, 40, 3);
  const Split split = make_split(dataset, DataConfig());
  CoarseScorer model(40);
  const Lines lines(dataset, split, model);
  for (const EvaluationCases& cases : {split.test, split.validation, cases_with_many_targets(dataset, 5)}) {
    const EvaluationResult result = evaluate(dataset, cases, "test", config_for("exclude"), lines.scorers());
    REQUIRE(result.lines.size() == 3);
    for (size_t line = 0; line < 3; ++line) {
      INFO(result.lines[line].name);
      REQUIRE(result.lines[line].name == lines.scorers()[line].name);
      Scorer& scorer = *lines.scorers()[line].scorer;
      const NaiveFigures excluded = naive_figures(dataset, cases, scorer, 10, true);
      const NaiveFigures kept = naive_figures(dataset, cases, scorer, 10, false);
      REQUIRE(result.lines[line].excluded[0] == Approx(excluded.ndcg));
      REQUIRE(result.lines[line].excluded[1] == Approx(excluded.recall));
      REQUIRE(result.lines[line].kept[0] == Approx(kept.ndcg));
      REQUIRE(result.lines[line].kept[1] == Approx(kept.recall));
    }
  }
}

TEST_CASE("figures are the same bits for any batch size and thread count", "[evaluate]") {
  const Dataset dataset = random_dataset(150, 60, 4);
  const Split split = make_split(dataset, DataConfig());
  ModelConfig model_config;
  model_config.hidden_size = 16;
  model_config.initial_std = 0.3;
  Device device;
  ModelInstance instance(device, model_config, 60, 10, 3);
  std::string first;
  for (const int64_t batch : {1, 13, 256}) {
    for (const int threads : {1, 2, 3}) {
      const Threads scope(threads);
      ModelScorer model(device, instance.model(), 10);
      const Lines lines(dataset, split, model);
      EvaluationConfig config = config_for("exclude");
      config.batch_size = batch;
      const std::string text = evaluate(dataset, split.test, "test", config, lines.scorers()).to_json().dump();
      if (first.empty()) first = text;
      INFO("batch " << batch << ", threads " << threads);
      REQUIRE(text == first);
    }
  }
}

TEST_CASE("the answer states its protocol", "[evaluate]") {
  const Dataset dataset = random_dataset(50, 30, 6);
  const Split split = make_split(dataset, DataConfig());
  CoarseScorer model(30);
  const Lines lines(dataset, split, model);
  for (const std::string seen : {"exclude", "keep"}) {
    const EvaluationResult result =
        evaluate(dataset, split.validation, "validation", config_for(seen), lines.scorers());
    const nlohmann::ordered_json json = result.to_json();
    std::vector<std::string> keys;
    for (const auto& [key, value] : json.items()) keys.push_back(key);
    REQUIRE(keys == std::vector<std::string>{"split", "seen_items", "cases", "tie_rule", "metrics", "references",
                                             "seen_items_excluded", "seen_items_kept"});
    REQUIRE(json["split"] == "validation");
    REQUIRE(json["seen_items"] == seen);
    REQUIRE(json["cases"] == split.validation.size());
    REQUIRE(json["tie_rule"] == kTieRule);
    const nlohmann::ordered_json& own = json[seen == "exclude" ? "seen_items_excluded" : "seen_items_kept"];
    REQUIRE(json["metrics"] == own["metrics"]);
    REQUIRE(json["references"] == own["references"]);
    REQUIRE(json["seen_items_excluded"] != json["seen_items_kept"]);
    REQUIRE(json["metrics"].size() == 3);
    REQUIRE(json["metrics"].begin().key() == "ndcg@10");
    REQUIRE(json["references"]["popularity"].contains("mrr"));
    REQUIRE(json["references"]["item_knn"].contains("recall@10"));
    REQUIRE(result.model_metrics() == json["metrics"]);
    REQUIRE(result.model_metric("mrr") == json["metrics"]["mrr"].get<double>());
    REQUIRE_THROWS_WITH(result.model_metric("hit@1"), Catch::Contains("hit@1"));
  }
  const EvaluationResult alone =
      evaluate(dataset, split.validation, "validation", config_for("keep"), {{"model", &model}});
  REQUIRE(alone.to_json()["references"].empty());
  REQUIRE(alone.to_json()["references"].is_object());
  REQUIRE_THROWS_WITH(evaluate(dataset, EvaluationCases(), "test", config_for("keep"), {{"model", &model}}),
                      Catch::Contains("nothing to evaluate in the test split"));
}

TEST_CASE("ranks are written with the ids they belong to", "[evaluate]") {
  const Dataset dataset = random_dataset(60, 30, 7);
  const EvaluationCases cases = cases_with_many_targets(dataset, 8);
  CoarseScorer model(30);
  const EvaluationResult result = evaluate(dataset, cases, "test", config_for("keep"), {{"model", &model}});
  const TemporaryFolder folder;
  const std::string path = folder.path("ranks.h5");
  dump_ranks(dataset, cases, result, path);

  const Hdf5Reader file(path);
  REQUIRE(check_header(file, "ranks", 1) == 1);
  REQUIRE(file.attribute<std::string>("/", "split") == "test");
  REQUIRE(file.attribute<std::string>("/", "tie_rule") == kTieRule);
  REQUIRE(file.attribute<std::string>("/", "dataset_sha256") == dataset.hash);
  const auto sequences = file.read<int64_t>("/case/sequence"), lengths = file.read<int64_t>("/case/history_length");
  const auto ids = file.read_texts("/case/sequence_id"), target_ids = file.read_texts("/case/target_id");
  REQUIRE(file.read<int32_t>("/case/target") == cases.targets);
  REQUIRE(file.read<double>("/case/rank_seen_excluded") == result.ranks.excluded);
  REQUIRE(file.read<double>("/case/rank_seen_kept") == result.ranks.kept);
  REQUIRE(result.ranks.kept.size() == cases.targets.size());
  for (const EvaluationCase& one : cases.cases) {
    for (size_t place = static_cast<size_t>(one.targets_begin); place < static_cast<size_t>(one.targets_end); ++place) {
      REQUIRE(sequences[place] == one.sequence);
      REQUIRE(ids[place] == join_message("user-", one.sequence));
      REQUIRE(lengths[place] == one.history_end);
      REQUIRE(target_ids[place] == join_message("item-", cases.targets[place]));
    }
  }
}
