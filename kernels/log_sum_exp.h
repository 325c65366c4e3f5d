// The normalisation of a softmax over a catalogue, of which only a few places are wanted:
//
//   y[m] = log sum_v exp(x[m][v]),   so that softmax(x[m])[v] = exp(x[m][v] - y[m])
//
// -infinity counts nothing; a row of nothing else, or of no columns, gives -infinity. NaN gives NaN. Exponentials are
// fp32, of differences to the row's greatest; their sum has a fixed order.
#pragma once

#include "core/device.h"
#include "core/view.h"

namespace itemloom {

struct LogSumExp {
  Matrix<const float> x;  // (M, V)
  Vector<double> y;       // (M), overwritten
};
void launch(CpuStream stream, const LogSumExp& args);
void launch(CudaStream stream, const LogSumExp& args);

}  // namespace itemloom
