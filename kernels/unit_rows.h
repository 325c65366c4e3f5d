// Rows of length one, whose products are cosines.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// y[r] = x[r] / sqrt(sum_c x[r][c]^2), the sum in double; a row of zeros stays one.
struct UnitRows {
  Matrix<const float> x;  // (N, C)
  Matrix<float> y;        // (N, C), overwritten
};
void launch(CpuStream stream, const UnitRows& args);
void launch(CudaStream stream, const UnitRows& args);

}  // namespace itemloom
