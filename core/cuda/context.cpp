#include "core/cuda/context.h"

#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "core/cuda/backend.h"
#include "core/cuda/nccl_exchange.h"
#include "core/cuda/staging.h"

namespace itemloom {
namespace {

// mma.sync with bf16 and cp.async came with it.
constexpr int kLeastMajor = 8;

int attribute(cudaDeviceAttr which, int ordinal) {
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, which, ordinal), "asking the GPU what it is");
  return value;
}

}  // namespace

int choose_gpu(int ordinal) {
  int gpus = 0;
  const cudaError_t status = cudaGetDeviceCount(&gpus);
  CHECK(status == cudaSuccess && gpus > 0, "device is cuda, but no GPU can be used here: ",
        status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status),
        "; take device cpu, or run where nvidia-smi lists a GPU");
  if (gpus == 1) ordinal = 0;
  CHECK(ordinal < gpus, "this rank is number ", ordinal, " of its host and wants a GPU of its own, but there are ",
        gpus, " GPUs; start at most one rank a GPU, or show more of them with CUDA_VISIBLE_DEVICES");
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, ordinal);
  CHECK(major >= kLeastMajor, "GPU ", ordinal, " has compute capability ", major, ".",
        attribute(cudaDevAttrComputeCapabilityMinor, ordinal), "; itemloom needs 8.0 (A100, RTX 30) or later");
  return ordinal;
}

void cuda_check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  // The error is said here; the next call must not find it again.
  cudaGetLastError();
  CHECK(status != cudaErrorMemoryAllocation, "the GPU is out of memory while ", what,
        "; free it of other programs or take device cpu");
  fail("CUDA failed while ", what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

void cublas_check(cublasStatus_t status, const char* what) {
  CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLAS failed while ", what, ": ", cublasLtGetStatusString(status));
}

std::byte* cuda_allocate(int64_t bytes, const char* what) {
  void* data = nullptr;
  cuda_check(cudaMalloc(&data, static_cast<size_t>(bytes)), what);
  return static_cast<std::byte*>(data);
}

std::byte* cuda_allocate_pinned(int64_t bytes, const char* what) {
  void* data = nullptr;
  cuda_check(cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocPortable), what);
  std::memset(data, 0, static_cast<size_t>(bytes));
  return static_cast<std::byte*>(data);
}

CudaContext::CudaContext(int ordinal) : ordinal_(choose_gpu(ordinal)) {
  use_on_this_thread();
  const char* synchronous = std::getenv("ITEMLOOM_CUDA_SYNC");
  synchronous_ = synchronous && std::strcmp(synchronous, "1") == 0;
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  cublas_check(cublasLtCreate(&blas_), "starting cuBLAS");
  blas_workspace_ = cuda_allocate(cuda_backend::kBlasWorkspaceBytes, "taking cuBLAS's working memory");
  staging_ = std::make_unique<Staging>(*this);
}

CudaContext::~CudaContext() {
  // The process may be ending because the GPU failed: nothing here can say more than the first error did.
  cudaStreamSynchronize(stream_);
  staging_.reset();
  cudaFree(scratch_);
  cudaFree(blas_workspace_);
  cublasLtDestroy(blas_);
  cudaStreamDestroy(stream_);
}

void CudaContext::use_on_this_thread() const {
  cuda_check(cudaSetDevice(ordinal_), "choosing the GPU");
}

void CudaContext::reserve_scratch(int64_t bytes) {
  if (bytes <= scratch_size_) return;
  require_no_graph("growing working memory");
  const int64_t wanted = round_up(bytes, 256);
  // Kernels that are still to run use the old one.
  cuda_check(cudaStreamSynchronize(stream_), "waiting for kernels");
  cuda_check(cudaFree(scratch_), "growing working memory");
  scratch_ = nullptr;
  scratch_size_ = 0;
  scratch_ = cuda_allocate(wanted, "growing working memory");
  scratch_size_ = wanted;
  ++scratch_moves_;
}

std::byte* CudaContext::scratch_bytes(int64_t bytes) {
  if (bytes > scratch_size_) reserve_scratch(bytes + bytes / 4);
  return scratch_;
}

std::shared_ptr<NcclGroup> CudaContext::nccl_group(Communicator& communicator) {
  std::shared_ptr<NcclGroup> group = nccl_group_.lock();
  if (!group) nccl_group_ = group = std::make_shared<NcclGroup>(*this, communicator);
  return group;
}

void CudaContext::wait_for(cudaEvent_t event) const {
  cuda_check(cudaEventSynchronize(event), "running kernels");
}

// Of this thread alone: others, which exchange gradients or write checkpoints, go on as they like.
void CudaContext::begin_graph() {
  cuda_check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "beginning a graph");
  makes_graph_ = true;
}

cudaGraphExec_t CudaContext::end_graph() {
  makes_graph_ = false;
  cudaGraph_t captured = nullptr;
  cuda_check(cudaStreamEndCapture(stream_, &captured), "capturing a graph");
  cudaGraphExec_t graph = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&graph, captured, 0);
  cudaGraphDestroy(captured);
  cuda_check(status, "making a graph (a larger training.graph_bucket makes fewer)");
  return graph;
}

void CudaContext::require_no_graph(const char* what) const {
  CHECK(!makes_graph_, what, " cannot be part of a graph");
}

void CudaContext::after_launch(const char* kernel) {
  after_launch(kernel, stream_);
}

void CudaContext::after_launch(const char* kernel, cudaStream_t on) {
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess && synchronous_) status = cudaStreamSynchronize(on);
  cuda_check(status, kernel);
}

}  // namespace itemloom
