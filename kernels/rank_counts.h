// How targets compare with the rest of a catalogue, given tiles of scores: what their ranks are made of.
#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// Columns of a row by their scores against that of one of its targets, s. A score that is not a number counts as above,
// so that a broken model never looks good; a target whose own score is not a number is the only one with equal == 0.
struct RankCounts {
  int32_t above, equal;            // columns j with !(score_j <= s), and with score_j == s, the target itself included
  int32_t seen_above, seen_equal;  // of these those that the row's history holds
};

struct CountRanks {
  Matrix<const float> scores;            // (M, V)
  Vector<const int64_t> target_offsets;  // (M + 1): row r has the targets [target_offsets[r], target_offsets[r + 1])
  Vector<const int32_t> targets;         // (T) columns
  Vector<const int64_t> seen_offsets;    // (M + 1), as for the targets
  Vector<const int32_t> seen;            // (S) distinct columns of a row
  Vector<RankCounts> counts;             // (T), overwritten
};
void launch(CpuStream stream, const CountRanks& args);
void launch(CudaStream stream, const CountRanks& args);

}  // namespace itemloom
