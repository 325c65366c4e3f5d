#include "train/score_tile.h"

#include <cmath>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

template <class T>
Vector<const T> view(const std::vector<T>& values) {
  return Vector<const T>(values.data(), values.size());
}

void fill(Device& device, Matrix<float> scores, const std::vector<float>& values) {
  device.copy_from_host(values.data(), scores.data(), scores.size());
}

}  // namespace

TEST_CASE("a tile has as many rows as its bytes hold, and one at least", "[score_tile]") {
  REQUIRE(ScoreTile::rows(256, 3416) == 256);
  REQUIRE(ScoreTile::rows(256, 1'000'000) == 67);
  REQUIRE(ScoreTile::rows(256, 1'000'000, 1'000'000) == 22);  // and as many best items as there are
  REQUIRE(ScoreTile::rows(256, 1'000'000'000) == 1);
  REQUIRE(ScoreTile::rows(0, 5) == 1);
}

TEST_CASE("lists of a tile's rows, as they are and distinct", "[score_tile]") {
  const std::vector<int32_t> row = {5, 2, 5, 9}, without = {9, 3};
  ItemLists lists;
  lists.add_row(view(row));
  lists.add_distinct_row(view(row), view(without));
  lists.add_distinct_row(view(row), Vector<const int32_t>::none());
  REQUIRE(lists.items == std::vector<int32_t>{5, 2, 5, 9, 2, 5, 2, 5, 9});
  REQUIRE(lists.offsets == std::vector<int64_t>{0, 4, 6, 9});
  lists.clear();
  REQUIRE((lists.items.empty() && lists.offsets == std::vector<int64_t>{0}));
}

TEST_CASE("tiles of any sizes give their best candidates and what a softmax over them divides by",
          "[score_tile][device]") {
  test::on_every_device([](Device& device) {
    ScoreTile tile(device);
    // The second tile is smaller than the first, whose scores lie behind it.
    for (const auto& [scores, rows] :
         {std::pair(std::vector<float>{1, 3, 3, 0, 2, 5, 4, 7}, 2), std::pair(std::vector<float>{1, 2, 0, 2}, 1)}) {
      fill(device, tile.begin(rows, 4), scores);
      ItemLists excluded;
      const std::vector<int32_t> items = {1};
      for (int64_t row = 0; row < rows; ++row) excluded.add_row(view(items));
      REQUIRE(tile.score(rows - 1, 1) == scores[static_cast<size_t>(4 * rows - 3)]);
      tile.exclude(excluded);
      const BestItems best = tile.best(4);
      const std::vector<double> sums = tile.log_sum_exp();
      for (int64_t row = 0; row < rows; ++row) {
        const float* given = scores.data() + 4 * row;
        std::vector<int32_t> found;
        best.for_row(row, [&](int32_t item, float score) {
          REQUIRE(score == given[item]);
          if (!found.empty()) REQUIRE(given[found.back()] >= score);
          found.push_back(item);
        });
        REQUIRE(found.size() == 3);
        const double sum = std::exp(given[0]) + std::exp(given[2]) + std::exp(given[3]);
        REQUIRE(sums[static_cast<size_t>(row)] == Approx(std::log(sum)).epsilon(1e-6));
      }
    }
  });
}

}  // namespace itemloom
