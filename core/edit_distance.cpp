#include "core/edit_distance.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

namespace itemloom {

int64_t edit_distance(std::string_view a, std::string_view b, int64_t limit) {
  const auto n = static_cast<int64_t>(a.size()), m = static_cast<int64_t>(b.size());
  if (std::abs(n - m) > limit) return limit + 1;
  std::vector<int64_t> two_before(m + 1), before(m + 1), row(m + 1);
  for (int64_t j = 0; j <= m; ++j) row[j] = j;
  for (int64_t i = 1; i <= n; ++i) {
    std::swap(two_before, before);
    std::swap(before, row);
    row[0] = i;
    int64_t least = i;
    for (int64_t j = 1; j <= m; ++j) {
      row[j] = std::min({before[j] + 1, row[j - 1] + 1, before[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], two_before[j - 2] + 1);
      least = std::min(least, row[j]);
    }
    // A later row may use this one or, by a swap, the one before; both can only grow.
    if (least > limit && *std::min_element(before.begin(), before.end()) > limit) return limit + 1;
  }
  return std::min(row[m], limit + 1);
}

}  // namespace itemloom
