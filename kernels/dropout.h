// Dropout with an optional residual: y = residual + keep * dropout_scale * x, masks by core/rng.h's rule with
// row_id = row_ids[r] and the column index. probability 0 draws nothing (y = residual + x).
// Backward adds into dx (and into dresidual when given) and draws the same mask again: no mask is stored.
#pragma once

#include "core/device.h"
#include "core/rng.h"
#include "core/view.h"

namespace itemloom {

struct DropoutForward {
  Matrix<const float> x;           // (N, C)
  Matrix<const float> residual;    // (N, C), or none()
  Vector<const uint32_t> row_ids;  // (N)
  float probability;               // in [0, 1)
  DropoutKey key;
  Matrix<float> y;  // (N, C), overwritten; may be x or residual itself
};
void launch(CpuStream stream, const DropoutForward& args);
void launch(CudaStream stream, const DropoutForward& args);

struct DropoutBackward {
  Matrix<const float> dy;          // (N, C)
  Vector<const uint32_t> row_ids;  // (N)
  float probability;
  DropoutKey key;
  Matrix<float> dx;         // (N, C), added into
  Matrix<float> dresidual;  // (N, C), added into, or none()
};
void launch(CpuStream stream, const DropoutBackward& args);
void launch(CudaStream stream, const DropoutBackward& args);

}  // namespace itemloom
