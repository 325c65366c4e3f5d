// The one way to start a kernel: grid and block are checked against what the work needs, and every launch is checked.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/check.h"
#include "core/cuda/context.h"
#include "core/device.h"
#include "core/parallel.h"

namespace itemloom::cuda {

inline constexpr int kWarp = 32;

// A kernel has 48 KiB of a multiprocessor's shared memory without asking, what it declares itself included. More than
// this at a launch is asked for.
inline constexpr int64_t kSharedUnasked = int64_t{40} << 10;

// Where a kernel is put: on the context's stream, or on another one of its GPU, where working memory is not its own.
struct Place {
  Place(CudaStream stream) : context(stream.context), stream(stream.context->stream()) {}
  Place(CudaStream stream, cudaStream_t other) : context(stream.context), stream(other) {}

  CudaContext* context;
  cudaStream_t stream;
};

// Starts kernel(arguments...) with `blocks` blocks of `threads` threads and `shared_bytes` of dynamic shared memory.
// No blocks: nothing to do. `name` is what an error says.
template <class... Parameters, class... Arguments>
void start(Place place, const char* name, void (*kernel)(Parameters...), dim3 blocks, int threads, int64_t shared_bytes,
           Arguments... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  if (shared_bytes > kSharedUnasked) {
    cuda_check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)),
               name);
  }
  kernel<<<blocks, static_cast<unsigned>(threads), static_cast<size_t>(shared_bytes), place.stream>>>(
      static_cast<Parameters>(arguments)...);
  place.context->after_launch(name, place.stream);
}

// A grid along one axis. More than 2^31 - 1 blocks is more than a grid has.
inline dim3 grid(int64_t blocks) {
  CHECK(blocks <= INT32_MAX, "a kernel was to be started with ", blocks, " blocks");
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace itemloom::cuda
