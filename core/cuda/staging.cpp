#include "core/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "core/cuda/context.h"
#include "core/memory.h"

namespace itemloom {

Staging::Staging(CudaContext& context)
    : context_(context), memory_(cuda_allocate_pinned(2 * kHalfBytes, "taking page-locked memory")) {
  for (cudaEvent_t& event : fetched_) {
    cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync), "making an event");
  }
}

Staging::~Staging() {
  for (const cudaEvent_t event : fetched_) cudaEventDestroy(event);
  cudaFreeHost(memory_);
}

void Staging::copy(const std::byte* from, std::byte* to, int64_t bytes) {
  context_.require_no_graph("a copy from the host");
  while (bytes > 0) {
    if (used_ == kHalfBytes) turn();
    const int64_t piece = std::min(bytes, kHalfBytes - used_);
    std::byte* place = memory_ + static_cast<int64_t>(half_) * kHalfBytes + used_;
    std::memcpy(place, from, static_cast<size_t>(piece));
    cuda_check(cudaMemcpyAsync(to, place, static_cast<size_t>(piece), cudaMemcpyHostToDevice, context_.stream()),
               "copying");
    used_ = std::min(kHalfBytes, round_up(used_ + piece, kAlignment));
    from += piece;
    to += piece;
    bytes -= piece;
  }
}

void Staging::gather(std::span<const cuda_backend::HostPiece> pieces, std::byte* to) {
  context_.require_no_graph("a copy from the host");
  int64_t bytes = 0;
  for (const auto& piece : pieces) bytes += round_up(piece.bytes, kAlignment);
  if (bytes > kHalfBytes) {
    for (const auto& piece : pieces) {
      copy(static_cast<const std::byte*>(piece.data), to, piece.bytes);
      to += round_up(piece.bytes, kAlignment);
    }
    return;
  }
  if (used_ + bytes > kHalfBytes) turn();
  std::byte* const place = memory_ + static_cast<int64_t>(half_) * kHalfBytes + used_;
  int64_t offset = 0;
  for (const auto& piece : pieces) {
    if (piece.bytes > 0) std::memcpy(place + offset, piece.data, static_cast<size_t>(piece.bytes));
    offset += round_up(piece.bytes, kAlignment);
  }
  cuda_check(cudaMemcpyAsync(to, place, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, context_.stream()),
             "copying");
  used_ += bytes;
}

void Staging::turn() {
  cuda_check(cudaEventRecord(fetched_[half_], context_.stream()), "marking a place in a stream");
  half_ = 1 - half_;
  used_ = 0;
  context_.wait_for(fetched_[half_]);
}

}  // namespace itemloom
