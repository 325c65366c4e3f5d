// The best of a catalogue, given tiles of scores.
#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// For every row the k best columns by score, best first; ties go to the lower column. Columns whose score is -infinity
// or not a number are never taken; missing places get index -1 and score -infinity.
struct TopK {
  Matrix<const float> scores;  // (M, V)
  Matrix<int32_t> indices;     // (M, K), overwritten
  Matrix<float> values;        // (M, K), overwritten
};
void launch(CpuStream stream, const TopK& args);
void launch(CudaStream stream, const TopK& args);

// Columns that are not to be taken: scores[r][columns[i]] = -infinity for i in [offsets[r], offsets[r + 1]).
struct ExcludeColumns {
  Vector<const int64_t> offsets;  // (M + 1)
  Vector<const int32_t> columns;  // (S), distinct within a row
  Matrix<float> scores;           // (M, V), overwritten at these columns
};
void launch(CpuStream stream, const ExcludeColumns& args);
void launch(CudaStream stream, const ExcludeColumns& args);

}  // namespace itemloom
