// Plain elementwise work on flat ranges.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/view.h"

namespace itemloom {

// y = value
struct Fill {
  float value;
  Vector<float> y;  // overwritten
};
void launch(CpuStream stream, const Fill& args);
void launch(CudaStream stream, const Fill& args);

// y += scale * x
struct AddScaled {
  float scale;
  Vector<const float> x;
  Vector<float> y;  // added into
};
void launch(CpuStream stream, const AddScaled& args);
void launch(CudaStream stream, const AddScaled& args);

// y = x, rounded to the nearest where To is Bf16.
template <class From, class To>
struct Convert {
  Vector<const From> x;
  Vector<To> y;                   // as x, overwritten
  CUstream_st* stream = nullptr;  // of the GPU, to be put on in place of the device's own
};
void launch(CudaStream stream, const Convert<float, Bf16>& args);
void launch(CudaStream stream, const Convert<Bf16, float>& args);

}  // namespace itemloom
