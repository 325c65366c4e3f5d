// The way from the host to a GPU: page-locked memory from which the GPU fetches by itself, while the host goes on.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/cuda/backend.h"

namespace itemloom {

class CudaContext;

// Two halves: one is filled while the GPU may still be fetching from the other, and a half is filled again when the GPU
// has fetched all of it. Used by one thread.
class Staging {
 public:
  explicit Staging(CudaContext& context);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // In the order of the context's stream. `from` may be changed when this returns.
  void copy(const std::byte* from, std::byte* to, int64_t bytes);

  // The same of pieces that come to follow each other, each at the next multiple of kAlignment: one copy, where they
  // fit into a half.
  void gather(std::span<const cuda_backend::HostPiece> pieces, std::byte* to);

  // The indices of a million rows: the host waits for a half only when it is that far ahead.
  static constexpr int64_t kHalfBytes = int64_t{16} << 20;

 private:
  void turn();

  CudaContext& context_;
  std::byte* memory_ = nullptr;
  std::array<cudaEvent_t, 2> fetched_{};  // by half
  size_t half_ = 0;
  int64_t used_ = 0;  // bytes of it
};

}  // namespace itemloom
