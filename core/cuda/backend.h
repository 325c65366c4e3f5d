// What core/device.cpp needs of CUDA, in words that need no CUDA header: core/cuda/backend.cpp has it in a build with
// CUDA, core/cuda_absent.cpp refuses in one without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace itemloom {

class CudaContext;

namespace cuda_backend {

CudaContext* make_context(int ordinal);
void delete_context(CudaContext* context);

// Zeroed memory of the calling thread's GPU.
std::byte* allocate(int64_t bytes);
void free(std::byte* data);

enum class Direction { kFromHost, kToHost, kWithin };
// In the stream's order; host memory may be used again when it returns.
void copy(CudaContext& context, const void* from, void* to, int64_t bytes, Direction direction);
void zero(CudaContext& context, void* data, int64_t bytes);
void synchronize(CudaContext& context);

// What there is, for people: "CUDA 13.0, driver 13.0; GPU 0: NVIDIA H100, compute capability 9.0, 80 GiB" or why there
// is nothing.
std::string describe();

}  // namespace cuda_backend
}  // namespace itemloom
