// Training sequences that a test makes up.
#pragma once

#include <cstdint>
#include <vector>

#include "core/view.h"
#include "data/loader.h"

namespace itemloom::test {

// One after the other in one list of items.
struct Sequences {
  std::vector<int32_t> items;
  std::vector<int64_t> offsets = {0};

  // What was added to `items` since the last call is a sequence.
  void end_sequence() { offsets.push_back(static_cast<int64_t>(items.size())); }

  Vector<const int32_t> all_items() const { return {items.data(), items.size()}; }
  // Of at most max_length items; the sequences must outlive them.
  Windows windows(int64_t max_length) const {
    DataConfig config;
    config.max_length = max_length;
    const size_t count = offsets.size() - 1;
    return Windows({offsets.data(), count}, {offsets.data() + 1, count}, config);
  }
};

}  // namespace itemloom::test
