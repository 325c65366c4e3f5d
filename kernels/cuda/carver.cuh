// Cuts the scratch memory of a launch into pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/scratch.h"

namespace itemloom::cuda {

// Without memory it hands out nothing and only measures.
struct Carver {
  std::byte* memory = nullptr;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* piece = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    used += round_up(count * static_cast<int64_t>(sizeof(T)), kCudaScratchPiece);
    return piece;
  }
};

// Calls carve(carver) to measure its pieces and, once their memory is there, to take them.
template <class Carve>
void carve_scratch(CudaStream stream, const Carve& carve) {
  Carver measure;
  carve(measure);
  Carver carver{stream.context->scratch(measure.used)};
  carve(carver);
}

}  // namespace itemloom::cuda
