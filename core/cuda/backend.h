// What core/device.cpp needs of CUDA, in words that need no CUDA header: core/cuda/backend.cpp has it in a build with
// CUDA, core/cuda_absent.cpp refuses in one without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/view.h"

// What cudaEvent_t, cudaStream_t and cudaGraphExec_t point to.
struct CUevent_st;
struct CUstream_st;
struct CUgraphExec_st;

namespace itemloom {

class Communicator;
class CudaContext;
class ExchangeBuffer;

namespace cuda_backend {

// What a context takes for cuBLAS.
inline constexpr int64_t kBlasWorkspaceBytes = int64_t{32} << 20;

// Throws the Error that make_context would throw for want of a GPU.
void check_gpu(int ordinal);
CudaContext* make_context(int ordinal);
void delete_context(CudaContext* context);

// The working memory of a context's kernels (core/cuda/context.h).
void reserve_scratch(CudaContext& context, int64_t bytes);
int64_t scratch_size(const CudaContext& context);

// Zeroed memory of the calling thread's GPU.
std::byte* allocate(int64_t bytes);
void free(std::byte* data);

// Page-locked memory of the host, zeroed.
std::byte* allocate_pinned(int64_t bytes);
void free_pinned(std::byte* data);

enum class Direction { kFromHost, kToHost, kToPinned, kWithin };
// In the stream's order. What comes from the host may be changed when this returns (core/cuda/staging.h); what goes to
// the host is there by then, but in pinned memory only when the stream has come so far.
void copy(CudaContext& context, const void* from, void* to, int64_t bytes, Direction direction);
// Pieces of the host to places that follow each other, each at the next multiple of kAlignment, as one copy.
struct HostPiece {
  const void* data;
  int64_t bytes;
};
void gather_from_host(CudaContext& context, std::span<const HostPiece> pieces, std::byte* to);
void zero(CudaContext& context, void* data, int64_t bytes);
void synchronize(CudaContext& context);

CUevent_st* make_event();
void delete_event(CUevent_st* event);
// Behind all that the stream has been told until now.
void set_event(CudaContext& context, CUevent_st* event);
// As CudaContext::wait_for.
void wait_for_event(CudaContext& context, CUevent_st* event);
// Between two events that the stream has come to.
double seconds_between(CUevent_st* begin, CUevent_st* end);

// As CudaContext::begin_graph and end_graph.
void begin_graph(CudaContext& context);
CUgraphExec_st* end_graph(CudaContext& context);
// In the stream's order.
void launch_graph(CudaContext& context, CUgraphExec_st* graph);
// Launches that are still to run are done nevertheless.
void delete_graph(CUgraphExec_st* graph);
// How often working memory has grown, and so has moved from where kernels were told it is.
int64_t working_memory_moves(const CudaContext& context);
// Whether ITEMLOOM_CUDA_SYNC=1 is in force.
bool waits_for_kernels(const CudaContext& context);

// A collective, in the stream's order: sums in place of doubles in the GPUs' memory (core/communicator.h).
void all_reduce_sum(CudaContext& context, Communicator& communicator, Vector<double> values);

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
