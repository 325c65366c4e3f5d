// Rows picked out of a matrix and put back.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// y[i] = x[indices[i]]
struct GatherRows {
  Matrix<const float> x;          // (N, C)
  Vector<const int64_t> indices;  // (M), each in [0, N)
  Matrix<float> y;                // (M, C), overwritten
};
void launch(CpuStream stream, const GatherRows& args);
void launch(CudaStream stream, const GatherRows& args);

// dx[indices[i]] += dy[i]; the indices must be distinct.
struct ScatterAddRows {
  Matrix<const float> dy;         // (M, C)
  Vector<const int64_t> indices;  // (M), distinct, each in [0, N)
  Matrix<float> dx;               // (N, C), added into
};
void launch(CpuStream stream, const ScatterAddRows& args);
void launch(CudaStream stream, const ScatterAddRows& args);

}  // namespace itemloom
