#include "core/permutation.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "tests/support/catch.h"

namespace itemloom {
namespace {

std::vector<int64_t> listed(int64_t size, uint64_t key, uint32_t number) {
  const Permutation permutation(size, key, number);
  std::vector<int64_t> values;
  for (int64_t place = 0; place < size; ++place) values.push_back(permutation[place]);
  return values;
}

}  // namespace

TEST_CASE("a permutation has every value once, at every size", "[permutation]") {
  std::vector<int64_t> sizes = {1023, 1024, 1025, 65537, 100003};
  for (int64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (const int64_t size : sizes) {
    std::vector<int64_t> values = listed(size, 7, 3);
    std::sort(values.begin(), values.end());
    for (int64_t value = 0; value < size; ++value) {
      if (values[static_cast<size_t>(value)] != value) FAIL("of " << size << " the value " << value << " is not there");
    }
  }
}

TEST_CASE("key and number choose a permutation, and the same ones always the same", "[permutation]") {
  REQUIRE(listed(100, 7, 3) == listed(100, 7, 3));
  REQUIRE(listed(100, 7, 3) != listed(100, 7, 4));
  REQUIRE(listed(100, 7, 3) != listed(100, 8, 3));
}

// Chi-square over the pairs (place, value): with (size - 1)^2 degrees of freedom its mean is that number and its
// standard deviation the root of twice it.
TEST_CASE("every value comes as often at every place, for small sizes and odd ones", "[permutation]") {
  for (const int64_t size : {2, 3, 5, 7, 16, 37}) {
    constexpr int kDraws = 20000;
    std::vector<int64_t> counts(static_cast<size_t>(size * size));
    for (uint32_t number = 0; number < kDraws; ++number) {
      const std::vector<int64_t> values = listed(size, 11, number);
      for (int64_t place = 0; place < size; ++place) {
        ++counts[static_cast<size_t>(place * size + values[static_cast<size_t>(place)])];
      }
    }
    const double expected = static_cast<double>(kDraws) / static_cast<double>(size);
    double chi_square = 0;
    for (const int64_t count : counts) {
      chi_square += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
    }
    const double freedom = static_cast<double>((size - 1) * (size - 1));
    INFO("size " << size << ", chi-square " << chi_square << ", " << freedom << " degrees of freedom");
    REQUIRE(std::abs(chi_square - freedom) < 5 * std::sqrt(2 * freedom));
  }
}

// Neighbours that stay neighbours would put the same samples into one batch epoch after epoch. Of n values two that
// are beside each other come out beside each other, in this order, about once a permutation.
TEST_CASE("values beside each other are torn apart", "[permutation]") {
  int64_t kept = 0;
  constexpr int kDraws = 500;
  for (uint32_t number = 0; number < kDraws; ++number) {
    const std::vector<int64_t> values = listed(1000, 5, number);
    for (size_t place = 1; place < values.size(); ++place) kept += values[place] == values[place - 1] + 1;
  }
  INFO(kept << " pairs of neighbours in " << kDraws << " permutations");
  REQUIRE(kept > kDraws * 0.8);
  REQUIRE(kept < kDraws * 1.2);
}

}  // namespace itemloom
