// Reductions in fixed-size blocks whose boundaries do not depend on the number of threads.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// result[0] = sum x^2, in double between blocks; infinite or NaN when x holds such a value (which is how a non-finite
// gradient is found).
struct SumOfSquares {
  Vector<const float> x;
  Vector<double> result;  // (1), overwritten
};
void launch(CpuStream stream, const SumOfSquares& args);

// y[c] += sum_r x[r][c]: the gradient of a bias.
struct ColumnSum {
  Matrix<const float> x;  // (N, C)
  Vector<float> y;        // (C), added into
};
void launch(CpuStream stream, const ColumnSum& args);

}  // namespace itemloom
