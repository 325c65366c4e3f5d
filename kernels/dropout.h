// Dropout with an optional residual: y = residual + keep * dropout_scale * x, masks by core/rng.h's rule with
// row_id = row_ids[r] and the column index. probability 0 draws nothing (y = residual + x).
// Backward adds into dx (and into dresidual when given) and draws the same mask again: no mask is stored.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/rng.h"
#include "core/view.h"

namespace itemloom {

template <class T>
struct DropoutForward {
  Matrix<const T> x;               // (N, C)
  Matrix<const T> residual;        // (N, C), or none()
  Vector<const uint32_t> row_ids;  // (N)
  float probability;               // in [0, 1)
  DropoutKey key;
  Matrix<T> y;  // (N, C), overwritten; may be x or residual itself
};
void launch(CpuStream stream, const DropoutForward<float>& args);
void launch(CudaStream stream, const DropoutForward<float>& args);
void launch(CudaStream stream, const DropoutForward<Bf16>& args);

template <class T>
struct DropoutBackward {
  Matrix<const T> dy;              // (N, C)
  Vector<const uint32_t> row_ids;  // (N)
  float probability;
  DropoutKey key;
  Matrix<T> dx;         // (N, C), added into
  Matrix<T> dresidual;  // (N, C), added into, or none()
};
void launch(CpuStream stream, const DropoutBackward<float>& args);
void launch(CudaStream stream, const DropoutBackward<float>& args);
void launch(CudaStream stream, const DropoutBackward<Bf16>& args);

}  // namespace itemloom
