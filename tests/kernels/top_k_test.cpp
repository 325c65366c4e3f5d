#include "kernels/top_k.h"

#include <algorithm>
#include <cmath>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

namespace {

constexpr float kExcluded = -INFINITY;

enum class Scores { kRandom, kTies, kAllEqual, kAscending, kDescending, kMostlyExcluded, kNotNumbers, kAllExcluded };
constexpr Scores kAllScores[] = {Scores::kRandom,     Scores::kTies,       Scores::kAllEqual,
                                 Scores::kAscending,  Scores::kDescending, Scores::kMostlyExcluded,
                                 Scores::kNotNumbers, Scores::kAllExcluded};

void fill_scores(Guarded<float>& scores, Scores kind, uint64_t seed) {
  for (int64_t i = 0; i < scores.size(); ++i) {
    switch (kind) {
      case Scores::kRandom:
        scores[i] = test::random_float(seed, i, -1e3f, 1e3f);
        break;
      case Scores::kTies:
        scores[i] = static_cast<float>(test::random_int(seed, i, 5)) - 2;
        break;
      case Scores::kAllEqual:
        scores[i] = i % 2 == 0 ? 0.0f : -0.0f;
        break;
      case Scores::kAscending:
        scores[i] = static_cast<float>(i);
        break;
      case Scores::kDescending:
        scores[i] = -static_cast<float>(i);
        break;
      case Scores::kMostlyExcluded:
        scores[i] = test::random_int(seed, i, 10) == 0 ? 0.25f * float(i % 7) : kExcluded;
        break;
      case Scores::kNotNumbers:
        scores[i] = test::random_int(seed, i, 3) == 0 ? (i % 2 == 0 ? NAN : -NAN) : 0.5f * float(i % 11) - 2;
        break;
      case Scores::kAllExcluded:
        scores[i] = kExcluded;
        break;
    }
  }
}

// The first k columns of a stable sort by descending score, without those that are excluded or no numbers.
std::vector<int32_t> naive_best(const float* scores, int64_t columns, int64_t k) {
  std::vector<int32_t> order;
  for (int32_t column = 0; column < columns; ++column) {
    if (scores[column] > kExcluded) order.push_back(column);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  order.resize(std::min<size_t>(order.size(), k));
  order.resize(k, -1);
  return order;
}

void verify_top_k(Device& device, int64_t rows, int64_t columns, int64_t k, Scores kind) {
  INFO("rows " << rows << " columns " << columns << " k " << k << " scores " << static_cast<int>(kind));
  Guarded<float> scores(rows * columns, columns % 2), values(rows * k, 3);
  Guarded<int32_t> indices(rows * k, 1);
  fill_scores(scores, kind, static_cast<uint64_t>(columns + k));
  std::fill(indices.begin(), indices.end(), 77);
  std::fill(values.begin(), values.end(), NAN);
  test::run_from_host(device, TopK{.scores = scores.matrix(rows, columns),
                                   .indices = indices.matrix(rows, k),
                                   .values = values.matrix(rows, k)});
  for (int64_t row = 0; row < rows; ++row) {
    const float* given = scores.data() + row * columns;
    const std::vector<int32_t> expected = naive_best(given, columns, k);
    REQUIRE(test::same_bits(expected, std::vector<int32_t>(indices.data() + row * k, indices.data() + row * k + k)));
    for (int64_t place = 0; place < k; ++place) {
      REQUIRE(values[row * k + place] == (expected[place] < 0 ? kExcluded : given[expected[place]]));
    }
  }
  REQUIRE((scores.intact() && values.intact() && indices.intact()));
}

}  // namespace

TEST_CASE("the best columns come first and ties go to the lower column", "[top_k][device]") {
  test::on_every_device([](Device& device) {
    using Sizes = std::vector<int64_t>;
    const Sizes all_columns =
        test::by_device<Sizes>(device, {0, 1, 3, 16, 31, 33, 65, 1000, 4100}, {0, 3, 16, 33, 1001, 4100});
    const Sizes all_k = test::by_device<Sizes>(device, {0, 1, 2, 5, 33, 100}, {0, 1, 5, 100});
    for (int threads : test::by_device<std::vector<int>>(device, {1, 2, 3}, {1})) {
      test::Threads scope(threads);
      for (Scores kind : kAllScores) {
        for (int64_t columns : all_columns) {
          for (int64_t k : all_k) verify_top_k(device, 3, columns, k, kind);
        }
        verify_top_k(device, 0, 10, 3, kind);
        verify_top_k(device, 1, 10, 10, kind);
        verify_top_k(device, 2, 12101, 500, kind);
        verify_top_k(device, 1, 9000, 3100, kind);
        verify_top_k(device, 1, 5000, 6000, kind);
      }
    }
  });
}

TEST_CASE("columns are excluded row by row", "[top_k][device]") {
  test::on_every_device([](Device& device) {
    for (const int64_t columns : {1, 3, 33, 300}) {
      constexpr int64_t kRows = 5;
      Guarded<float> scores(kRows * columns, columns % 2);
      test::fill_random(scores, 1);
      std::vector<float> expected = scores.copy();
      std::vector<int64_t> offsets = {0};
      std::vector<int32_t> excluded;
      for (int64_t row = 0; row < kRows; ++row) {  // none of the first row, all of the last
        for (int64_t column = columns; column-- > 0;) {
          if (test::random_int(2, row * columns + column, kRows - 1) >= row) continue;
          excluded.push_back(static_cast<int32_t>(column));
          expected[static_cast<size_t>(row * columns + column)] = kExcluded;
        }
        offsets.push_back(static_cast<int64_t>(excluded.size()));
      }
      test::run_from_host(device, ExcludeColumns{.offsets = Vector<const int64_t>(offsets.data(), kRows + 1),
                                                 .columns = Vector<const int32_t>(excluded.data(), excluded.size()),
                                                 .scores = scores.matrix(kRows, columns)});
      REQUIRE(test::same_bits(scores.copy(), expected));
      REQUIRE(scores.intact());
    }
  });
}

}  // namespace itemloom
