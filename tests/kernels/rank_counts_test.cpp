#include "kernels/rank_counts.h"

#include <cmath>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {

using test::Guarded;

namespace {

// Rows with 0 to 3 targets and 0 to `columns` seen items; scores are few values, so that ties are many, and one in
// `nans` is not a number (0: none).
void verify_counts(Device& device, int64_t rows, int64_t columns, int64_t nans) {
  INFO(rows << " x " << columns << ", NaN one in " << nans);
  Guarded<float> scores(rows * columns);
  for (int64_t i = 0; i < scores.size(); ++i) {
    scores[i] =
        nans > 0 && test::random_int(5, i, nans) == 0 ? NAN : 0.5f * static_cast<float>(test::random_int(3, i, 9));
  }
  std::vector<int64_t> target_offsets = {0}, seen_offsets = {0};
  std::vector<int32_t> targets, seen;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t place = 0; place < std::min<int64_t>(row % 4, columns); ++place) {
      targets.push_back(static_cast<int32_t>((row * 7 + place) % columns));
    }
    target_offsets.push_back(static_cast<int64_t>(targets.size()));
    for (int32_t column = 0; column < columns; ++column) {
      if (test::random_int(9, row * columns + column, rows) < row) seen.push_back(column);
    }
    seen_offsets.push_back(static_cast<int64_t>(seen.size()));
  }
  std::vector<RankCounts> expected;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t target = target_offsets[row]; target < target_offsets[row + 1]; ++target) {
      const float threshold = scores[row * columns + targets[target]];
      auto is_above = [&](int64_t column) { return !(scores[row * columns + column] <= threshold); };
      auto is_equal = [&](int64_t column) { return scores[row * columns + column] == threshold; };
      RankCounts counts{0, 0, 0, 0};
      for (int64_t column = 0; column < columns; ++column) {
        counts.above += is_above(column);
        counts.equal += is_equal(column);
      }
      for (int64_t place = seen_offsets[row]; place < seen_offsets[row + 1]; ++place) {
        counts.seen_above += is_above(seen[place]);
        counts.seen_equal += is_equal(seen[place]);
      }
      expected.push_back(counts);
    }
  }
  std::vector<RankCounts> counts(expected.size() + 1, {-1, -2, -3, -4});
  const auto count = static_cast<int64_t>(expected.size());
  test::run_from_host(device, CountRanks{.scores = Matrix<const float>(scores.data(), rows, columns),
                                         .target_offsets = Vector<const int64_t>(target_offsets.data(), rows + 1),
                                         .targets = Vector<const int32_t>(targets.data(), count),
                                         .seen_offsets = Vector<const int64_t>(seen_offsets.data(), rows + 1),
                                         .seen = Vector<const int32_t>(seen.data(), seen.size()),
                                         .counts = Vector<RankCounts>(counts.data(), count)});
  for (size_t target = 0; target < expected.size(); ++target) {
    INFO("target " << target);
    REQUIRE(counts[target].above == expected[target].above);
    REQUIRE(counts[target].equal == expected[target].equal);
    REQUIRE(counts[target].seen_above == expected[target].seen_above);
    REQUIRE(counts[target].seen_equal == expected[target].seen_equal);
  }
  REQUIRE(counts.back().above == -1);
}

}  // namespace

TEST_CASE("ranks are counted as they are defined, with ties and scores that are not numbers", "[rank_counts][device]") {
  test::on_every_device([](Device& device) {
    for (const int64_t columns : {1, 3, 4, 257, 1030}) {
      verify_counts(device, 9, columns, 0);
      verify_counts(device, 6, columns, 5);
    }
    verify_counts(device, 1, 4099, 50);
  });
}

}  // namespace itemloom
