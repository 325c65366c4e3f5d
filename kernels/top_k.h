// The best of a catalogue, given tiles of scores.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// For every row the k best columns by score, best first; ties go to the lower column. Columns whose score is -infinity
// are never taken; missing places get index -1 and score -infinity. NaN scores are not allowed.
struct TopK {
  Matrix<const float> scores;  // (M, V)
  Matrix<int32_t> indices;     // (M, K), overwritten
  Matrix<float> values;        // (M, K), overwritten
};
void launch(CpuStream stream, const TopK& args);
void launch(CudaStream stream, const TopK& args);

}  // namespace itemloom
