// Which items' vectors are nearest to an item's.
#pragma once

#include <cstdint>

#include "train/run_folder.h"
#include "train/score_tile.h"

namespace itemloom {

enum class Similarity { kCosine, kDot };

// On the run's device.
class NeighborSearch {
 public:
  NeighborSearch(OpenedRun& run, Similarity similarity);

  // Of each item in [first, first + items) the `count` nearest others. The caller keeps the items to ScoreTile::rows().
  BestItems nearest(int64_t first, int64_t items, int64_t count);

 private:
  Device& device_;
  Matrix<const float> table_;
  DeviceBlock unit_;  // for cosines, the table with rows of length one
  ScoreTile tile_;
};

}  // namespace itemloom
