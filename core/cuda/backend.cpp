#include "core/cuda/backend.h"

#include <algorithm>

#include "core/check.h"
#include "core/cuda/context.h"
#include "core/cuda/staging.h"

namespace itemloom::cuda_backend {
namespace {

// 13000 is version 13.0.
std::string version_text(int version) {
  return join_message(version / 1000, ".", version % 1000 / 10);
}

cudaDeviceProp properties_of(int ordinal) {
  cudaDeviceProp properties;
  cuda_check(cudaGetDeviceProperties(&properties, ordinal), "asking the GPU what it is");
  return properties;
}

}  // namespace

void check_gpu(int ordinal) {
  choose_gpu(ordinal);
}

CudaContext* make_context(int ordinal) {
  return new CudaContext(ordinal);
}

void delete_context(CudaContext* context) {
  delete context;
}

void reserve_scratch(CudaContext& context, int64_t bytes) {
  context.reserve_scratch(bytes);
}

int64_t scratch_size(const CudaContext& context) {
  return context.scratch_size();
}

std::byte* allocate(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 1);
  const std::string what = join_message("taking ", (bytes >> 20) + 1, " MiB");
  std::byte* data = cuda_allocate(bytes, what.c_str());
  cuda_check(cudaMemset(data, 0, static_cast<size_t>(bytes)), what.c_str());
  // The default stream wrote it, for which the contexts' streams do not wait.
  cuda_check(cudaStreamSynchronize(cudaStreamLegacy), what.c_str());
  return data;
}

// At the end of a life that may have ended because the GPU failed: there is nobody to tell.
void free(std::byte* data) {
  cudaFree(data);
}

std::byte* allocate_pinned(int64_t bytes) {
  return cuda_allocate_pinned(bytes, "taking page-locked memory");
}

// The GPU may still have been told to write there, and cudaFreeHost promises no wait for it.
void free_pinned(std::byte* data) {
  cudaDeviceSynchronize();
  cudaFreeHost(data);
}

void copy(CudaContext& context, const void* from, void* to, int64_t bytes, Direction direction) {
  if (direction == Direction::kFromHost) {
    return context.staging().copy(static_cast<const std::byte*>(from), static_cast<std::byte*>(to), bytes);
  }
  const cudaMemcpyKind kind = direction == Direction::kWithin ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost;
  cuda_check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, context.stream()), "copying");
  if (direction == Direction::kToHost) synchronize(context);
}

void gather_from_host(CudaContext& context, std::span<const HostPiece> pieces, std::byte* to) {
  context.staging().gather(pieces, to);
}

void zero(CudaContext& context, void* data, int64_t bytes) {
  cuda_check(cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), context.stream()), "zeroing memory");
}

void synchronize(CudaContext& context) {
  cuda_check(cudaStreamSynchronize(context.stream()), "running kernels");
}

CUevent_st* make_event() {
  cudaEvent_t event = nullptr;
  cuda_check(cudaEventCreateWithFlags(&event, cudaEventBlockingSync), "making an event");
  return event;
}

void delete_event(CUevent_st* event) {
  cudaEventDestroy(event);
}

void set_event(CudaContext& context, CUevent_st* event) {
  cuda_check(cudaEventRecord(event, context.stream()), "marking a place in a stream");
}

void wait_for_event(CudaContext& context, CUevent_st* event) {
  context.wait_for(event);
}

double seconds_between(CUevent_st* begin, CUevent_st* end) {
  float milliseconds = 0;
  cuda_check(cudaEventElapsedTime(&milliseconds, begin, end), "timing a step");
  return 1e-3 * milliseconds;
}

void begin_graph(CudaContext& context) {
  context.begin_graph();
}

CUgraphExec_st* end_graph(CudaContext& context) {
  return context.end_graph();
}

void launch_graph(CudaContext& context, CUgraphExec_st* graph) {
  cuda_check(cudaGraphLaunch(graph, context.stream()), "launching a graph");
}

void delete_graph(CUgraphExec_st* graph) {
  cudaGraphExecDestroy(graph);
}

int64_t working_memory_moves(const CudaContext& context) {
  return context.scratch_moves();
}

bool waits_for_kernels(const CudaContext& context) {
  return context.is_synchronous();
}

std::string gpu_id(const CudaContext& context) {
  std::string text;
  for (const char byte : properties_of(context.ordinal()).uuid.bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string describe() {
  int runtime = 0, driver = 0;
  cuda_check(cudaRuntimeGetVersion(&runtime), "asking for the version");
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    return join_message("CUDA ", version_text(runtime), ", no driver");
  }
  std::string text = join_message("CUDA ", version_text(runtime), ", driver for ", version_text(driver));
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    cudaGetLastError();
    return text + ", no GPU: " + cudaGetErrorString(status);
  }
  if (count == 0) return text + ", no GPU";
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    const cudaDeviceProp gpu = properties_of(ordinal);
    text += join_message("; GPU ", ordinal, ": ", gpu.name, ", compute capability ", gpu.major, ".", gpu.minor, ", ",
                         gpu.totalGlobalMem >> 30, " GiB");
  }
  return text;
}

}  // namespace itemloom::cuda_backend
