#include "train/scorers.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/kernels.h"
#include "train/trainer.h"

using namespace itemloom;
using namespace itemloom::test;

namespace {

template <class T>
Vector<const T> view(const std::vector<T>& values) {
  return Vector<const T>(values.data(), values.size());
}

std::vector<float> scores_of(Scorer& scorer, const std::vector<History>& histories) {
  Guarded<float> scores(static_cast<int64_t>(histories.size()) * scorer.items(), 1);
  scorer.score(histories, scores.matrix(histories.size(), scorer.items()));
  REQUIRE(scores.intact());
  return scores.copy();
}

std::vector<std::vector<int32_t>> random_sequences(int64_t count, int64_t longest, int64_t items, uint64_t seed) {
  std::vector<std::vector<int32_t>> sequences;
  int64_t draw = 0;
  for (int64_t index = 0; index < count; ++index) {
    std::vector<int32_t>& sequence = sequences.emplace_back();
    const int64_t length = random_int(seed, draw++, longest + 1);
    for (int64_t place = 0; place < length; ++place) {
      sequence.push_back(static_cast<int32_t>(random_int(seed, draw++, items)));
    }
  }
  return sequences;
}

std::vector<History> histories_of(const std::vector<std::vector<int32_t>>& sequences) {
  static const int32_t nothing = 0;
  std::vector<History> histories;
  for (const auto& sequence : sequences) {
    histories.push_back(sequence.empty() ? History(&nothing, 0) : view(sequence));
  }
  return histories;
}

PairCounts counts_of(const std::vector<std::vector<int32_t>>& sequences, int64_t items) {
  std::vector<int64_t> offsets = {0};
  std::vector<int32_t> flat;
  for (const auto& sequence : sequences) {
    flat.insert(flat.end(), sequence.begin(), sequence.end());
    offsets.push_back(static_cast<int64_t>(flat.size()));
  }
  const int64_t count = static_cast<int64_t>(sequences.size());
  return PairCounts(view(offsets).slice(0, count), view(offsets).slice(1, count), view(flat),
                    Vector<const int32_t>::none(), items);
}

ModelConfig small_model() {
  ModelConfig config;
  config.hidden_size = 16;
  config.initial_std = 0.3;
  return config;
}

}  // namespace

TEST_CASE("popularity scores are the counts", "[scorers]") {
  const std::vector<int64_t> counts = {3, 0, 7};
  PopularityScorer scorer(view(counts));
  const std::vector<int32_t> history = {2};
  REQUIRE(scores_of(scorer, {view(history), view(history)}) == std::vector<float>{3, 0, 7, 3, 0, 7});
  std::vector<float> wrong(2);
  const std::vector<History> one = {view(history)};
  REQUIRE_THROWS_AS(scorer.score(one, Matrix<float>(wrong.data(), 1, 2)), Error);
}

TEST_CASE("item-kNN scores by hand", "[scorers]") {
  // c_0 = 3, c_1 = 2, c_2 = 2, c_3 = 1; c_01 = 2, c_02 = 1, c_12 = 1, c_23 = 1.
  const std::vector<std::vector<int32_t>> sequences = {{0, 1, 2, 0}, {0, 1}, {2, 3}, {0}};
  const PairCounts counts = counts_of(sequences, 5);
  const float s01 = static_cast<float>(2 / std::sqrt(6.0)), s02 = static_cast<float>(1 / std::sqrt(6.0));
  const float s12 = 0.5f, s23 = static_cast<float>(1 / std::sqrt(2.0));
  const std::vector<int32_t> pair = {2, 0, 2}, unknown = {4};
  ItemKnnScorer all(counts);
  REQUIRE(scores_of(all, {view(pair), view(unknown)}) ==
          std::vector<float>{s02, s01 + s12, s02, s23, 0, 0, 0, 0, 0, 0});
  // One neighbour each: 0 -> 1, 1 -> 0, 2 -> 3.
  ItemKnnScorer nearest(counts, 1);
  REQUIRE(scores_of(nearest, {view(pair)}) == std::vector<float>{0, s01, 0, s23, 0});
}

TEST_CASE("item-kNN agrees with dense similarities for any number of threads", "[scorers]") {
  const int64_t items = 150, neighbors = 9;
  const auto sequences = random_sequences(80, 20, items, 5);
  const PairCounts counts = counts_of(sequences, items);
  std::vector<std::vector<double>> similarity(items, std::vector<double>(items, 0));
  for (int64_t item = 0; item < items; ++item) {
    std::vector<int32_t> row(items), touched;
    counts.add_row(item, Vector<int32_t>(row.data(), items), touched);
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t other = 0; other < items; ++other) {
      if (other == item || row[other] == 0) continue;
      order.emplace_back(-row[other] / std::sqrt(double(counts.units_of(item)) * double(counts.units_of(other))),
                         other);
    }
    std::sort(order.begin(), order.end());
    for (size_t place = 0; place < std::min<size_t>(neighbors, order.size()); ++place) {
      similarity[item][order[place].second] = -order[place].first;
    }
  }
  const auto histories = histories_of(sequences);
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    ItemKnnScorer scorer(counts, neighbors);
    const std::vector<float> scores = scores_of(scorer, histories);
    if (first.empty()) first = scores;
    REQUIRE(same_bits(scores, first));
  }
  for (size_t row = 0; row < sequences.size(); ++row) {
    std::vector<int32_t> distinct = sequences[row];
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    for (int64_t item = 0; item < items; ++item) {
      double expected = 0;
      for (int32_t seen : distinct) expected += similarity[seen][item];
      REQUIRE(first[row * items + item] == Approx(expected).margin(1e-6));
    }
  }
}

TEST_CASE("a model without gradients gives the same scores and cannot be trained", "[scorers]") {
  constexpr int64_t kItems = 40, kMaxLength = 6;
  Device device;
  ModelInstance trainable(device, small_model(), kItems, kMaxLength, 3);
  ModelInstance asked(device, small_model(), kItems, kMaxLength, 3, false);
  REQUIRE(trainable.parameters().gradients().size() == trainable.parameters().size());
  REQUIRE_FALSE(asked.parameters().gradients());
  const std::vector<int32_t> items = {3, 7, 21};
  ModelScorer of_trainable(device, trainable.model(), kMaxLength), of_asked(device, asked.model(), kMaxLength);
  REQUIRE(scores_of(of_asked, {view(items)}) == scores_of(of_trainable, {view(items)}));
  Arena arena;
  Tape tape(device, arena, Mode::kTraining);
  const Tensor weight = asked.parameters().tensor(0);
  REQUIRE_THROWS_WITH(tape.gradient_matrix(weight), "a tensor of (41, 16) has no gradient");
}

TEST_CASE("a row of model scores depends on its history alone", "[scorers]") {
  const int64_t items = 67, max_length = 12;
  Device device;
  ModelInstance instance(device, small_model(), items, max_length, 3);
  ModelScorer scorer(device, instance.model(), max_length);
  // 900 histories are about 9,000 rows: several forward passes.
  const auto sequences = random_sequences(900, 20, items, 6);
  const auto histories = histories_of(sequences);
  const std::vector<float> together = scores_of(scorer, histories);
  for (const size_t row : {size_t{0}, size_t{1}, size_t{450}, size_t{899}}) {
    const std::vector<float> alone = scores_of(scorer, {histories[row]});
    REQUIRE(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<int64_t>(row) * items));
    // What is too long to be seen does not count.
    const History history = histories[row];
    const int64_t kept = std::min(history.size(), max_length - 1);
    REQUIRE(scores_of(scorer, {history.slice(history.size() - kept, kept)}) == alone);
  }
  for (const int threads : {1, 2, 3}) {
    const Threads scope(threads);
    REQUIRE(same_bits(scores_of(scorer, histories), together));
  }
  REQUIRE(scores_of(scorer, {}).empty());
}

TEST_CASE("model scores are the encoded history times the output table", "[scorers]") {
  const int64_t items = 31, max_length = 8;
  Device device;
  for (const bool with_bias : {true, false}) {
    ModelConfig config = small_model();
    config.output_bias = with_bias;
    ModelInstance instance(device, config, items, max_length, 3);
    fill_random(instance.parameters().values(), 4, -0.4f, 0.4f);
    ModelScorer scorer(device, instance.model(), max_length);
    const std::vector<std::vector<int32_t>> sequences = {{1, 2, 3}, {}, {30}};
    const auto histories = histories_of(sequences);
    const std::vector<float> scores = scores_of(scorer, histories);
    const Matrix<const float> encoded = scorer.encode(histories), table = instance.model().output_table();
    std::vector<double> expected;
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t item = 0; item < items; ++item) {
        double sum = with_bias ? instance.model().output_bias()[item] : 0;
        for (int64_t c = 0; c < table.columns(); ++c) sum += double(encoded.row(row)[c]) * table.row(item)[c];
        expected.push_back(sum);
      }
    }
    REQUIRE(worst_error(scores, expected) < 1e-5);
  }
}
