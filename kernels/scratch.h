// Working memory of launches, so that it can be planned and taken before the first of them. Beside launch() a kernel
// that takes some in training or its validations has
//
//   int64_t scratch_bytes(CpuStream stream, const Arguments& args);   // whose views need not point to anything
//   int64_t scratch_bytes(CudaStream stream, const Arguments& args);  // inline: plans for a GPU are made without CUDA
//
// the second one exact or a little more than launch() takes. (On the CPU attention has its own: kernels/attention.h.)
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/memory.h"

namespace itemloom {

// On CUDA pieces begin at multiples of this, as CudaContext::scratch() does.
inline constexpr int64_t kCudaScratchPiece = 256;

// Of pieces of these sizes.
constexpr int64_t cuda_scratch_bytes(std::initializer_list<int64_t> pieces) {
  int64_t total = 0;
  for (const int64_t bytes : pieces) total += round_up(bytes, kCudaScratchPiece);
  return total;
}

}  // namespace itemloom
