// What core/device.cpp needs of CUDA, in words that need no CUDA header: core/cuda/backend.cpp has it in a build with
// CUDA, core/cuda_absent.cpp refuses in one without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace itemloom {

class Communicator;
class CudaContext;
class ExchangeBuffer;

namespace cuda_backend {

CudaContext* make_context(int ordinal);
void delete_context(CudaContext* context);

// Zeroed memory of the calling thread's GPU.
std::byte* allocate(int64_t bytes);
void free(std::byte* data);

enum class Direction { kFromHost, kToHost, kWithin };
// In the stream's order. Host memory is pageable, of which the runtime takes a copy, so that it may be used again when
// this returns; what goes to the host is there by then.
void copy(CudaContext& context, const void* from, void* to, int64_t bytes, Direction direction);
void zero(CudaContext& context, void* data, int64_t bytes);
void synchronize(CudaContext& context);

// A collective: a buffer in the GPUs' memory that meets those of the other ranks by NCCL (core/communicator.h).
std::unique_ptr<ExchangeBuffer> make_exchange_buffer(CudaContext& context, Communicator& communicator, int64_t floats);

// The GPU's own name, which no other has.
std::string gpu_id(const CudaContext& context);

// What there is, for people: "CUDA 13.0, driver 13.0; GPU 0: NVIDIA H100, compute capability 9.0, 80 GiB" or why there
// is nothing.
std::string describe();
// "2.28.3", or "not built".
std::string nccl_version();

}  // namespace cuda_backend
}  // namespace itemloom
