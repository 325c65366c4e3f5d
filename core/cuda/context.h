// A GPU as this process uses it: one stream, the libraries' handles and working memory. Only a build with CUDA has it.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace itemloom {

class Communicator;
class NcclGroup;
class Staging;

// Every return code of the CUDA runtime and cuBLAS goes through one of these (NCCL's: core/cuda/nccl_exchange.h). They
// throw Error naming `what` was being done and the library's own words.
void cuda_check(cudaError_t status, const char* what);
void cublas_check(cublasStatus_t status, const char* what);

// The number of the GPU that a rank takes: the one of its number on its host, or the only one there is, which a
// launcher may have chosen for it. Throws Error where there is none for it.
int choose_gpu(int ordinal);

// Memory of the calling thread's GPU, contents undefined.
std::byte* cuda_allocate(int64_t bytes, const char* what);
// Page-locked memory of the host, zeroed.
std::byte* cuda_allocate_pinned(int64_t bytes, const char* what);

// What kernels/cuda/blas.cpp remembers from product to product.
struct BlasAlgorithms;

class CudaContext {
 public:
  // Makes the GPU of this number, or the only one, current on the calling thread. Throws Error with one clear line when
  // there is no driver, no GPU of this number, or one older than compute capability 8.0.
  explicit CudaContext(int ordinal);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  int ordinal() const { return ordinal_; }
  cudaStream_t stream() const { return stream_; }
  cublasLtHandle_t blas() const { return blas_; }

  // Makes this GPU current on another thread.
  void use_on_this_thread() const;

  // Working memory of one launch, contents undefined, valid until the next launch on the stream. It grows when a launch
  // asks for more than any before it, and is never given back. Pieces start at a multiple of 256 bytes.
  template <class T = std::byte>
  T* scratch(int64_t count) {
    return reinterpret_cast<T*>(scratch_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // Takes so much, unless there is as much already.
  void reserve_scratch(int64_t bytes);
  int64_t scratch_size() const { return scratch_size_; }
  // How often it has moved.
  int64_t scratch_moves() const { return scratch_moves_; }
  // Working memory of cuBLAS, of a fixed size: it is part of what its choice of an algorithm depends on.
  std::byte* blas_workspace() const { return blas_workspace_; }
  // Empty until the first product.
  std::shared_ptr<BlasAlgorithms>& blas_algorithms() { return blas_algorithms_; }

  // The ranks' GPUs; a collective when it is asked for the first time. Always of the same communicator.
  std::shared_ptr<NcclGroup> nccl_group(Communicator& communicator);

  // What the host sends goes through it.
  Staging& staging() { return *staging_; }

  // Returns when the GPU has come to an event. Throws Error when something went wrong there.
  void wait_for(cudaEvent_t event) const;

  // After every launch. ITEMLOOM_CUDA_SYNC=1 waits for each kernel, so that an error names the kernel it is of.
  void after_launch(const char* kernel);
  void after_launch(const char* kernel, cudaStream_t on);  // on another stream than its own
  bool is_synchronous() const { return synchronous_; }

  // What the stream is told between these two, by the calling thread, becomes a graph instead of being done.
  void begin_graph();
  cudaGraphExec_t end_graph();
  // For what a graph must not hold, because it would be done once and not at every launch. `what` is an error's words.
  void require_no_graph(const char* what) const;

 private:
  std::byte* scratch_bytes(int64_t bytes);

  int ordinal_;
  bool synchronous_ = false, makes_graph_ = false;
  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t blas_ = nullptr;
  std::byte* blas_workspace_ = nullptr;
  std::shared_ptr<BlasAlgorithms> blas_algorithms_;
  std::byte* scratch_ = nullptr;
  int64_t scratch_size_ = 0, scratch_moves_ = 0;
  std::unique_ptr<Staging> staging_;
  std::weak_ptr<NcclGroup> nccl_group_;  // lives as long as a buffer that uses it
};

}  // namespace itemloom
