// Rows picked out of a matrix and put back.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// y[i] = x[indices[i]]
template <class T>
struct GatherRows {
  Matrix<const T> x;              // (N, C)
  Vector<const int64_t> indices;  // (M), each in [0, N)
  Matrix<T> y;                    // (M, C), overwritten
};
void launch(CpuStream stream, const GatherRows<float>& args);
void launch(CudaStream stream, const GatherRows<float>& args);
void launch(CudaStream stream, const GatherRows<Bf16>& args);

// dx[indices[i]] += dy[i]; the indices must be distinct.
template <class T>
struct ScatterAddRows {
  Matrix<const T> dy;             // (M, C)
  Vector<const int64_t> indices;  // (M), distinct, each in [0, N)
  Matrix<T> dx;                   // (N, C), added into
};
void launch(CpuStream stream, const ScatterAddRows<float>& args);
void launch(CudaStream stream, const ScatterAddRows<float>& args);
void launch(CudaStream stream, const ScatterAddRows<Bf16>& args);

}  // namespace itemloom
