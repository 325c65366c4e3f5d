// The run-time API of copies and fills.
//
// What CUDA says about the host and copies is taken literally. From pageable memory: the data is read before the call
// returns, but may arrive later. To pageable memory: the call returns when the data is there. Pinned memory: read and
// written some time until the host next waits for the stream.
#include <cuda_runtime_api.h>

#include <cstring>
#include <vector>

#include "capture.h"
#include "pinned.h"
#include "scheduler.h"

using namespace cuda_emulation;

namespace {

// Rows of `width` bytes, each a pitch after the one before. A plain copy is one row.
struct Shape {
  size_t width;
  size_t rows;
  size_t target_pitch;
  size_t source_pitch;

  size_t target_bytes() const { return (rows - 1) * target_pitch + width; }
  size_t source_bytes() const { return (rows - 1) * source_pitch + width; }
};

struct Copy {
  std::byte* target;
  const std::byte* source;
  Shape shape;
  bool target_is_device;
  bool source_is_device;
  bool target_is_pinned;
  bool source_is_pinned;
};

bool is_pageable(const void* address, size_t bytes, const char* what) {
  if (is_pinned_host(address, bytes)) return false;
  if (overlaps_pinned(address, bytes)) {
    const void* piece = nullptr;
    const size_t piece_bytes = pinned_piece(address, &piece);
    report("out of bounds", std::string(what) + " of " + std::to_string(bytes) + " bytes touches pinned memory of " +
                                std::to_string(piece_bytes) + " bytes and more than that");
  }
  return true;
}

void require_pinned(const void* address, size_t bytes, const std::string& what) {
  if (is_pinned_host(address, bytes)) return;
  report("freed memory", what + " pinned memory of " + std::to_string(bytes) + " bytes that was given back");
}

// Before the work is queued, so that the report comes where the host is, and again when it runs: the memory may have
// been freed in between.
void require_ranges(const Copy& copy) {
  for (size_t row = 0; row < copy.shape.rows; ++row) {
    const std::byte* target = copy.target + row * copy.shape.target_pitch;
    const std::byte* source = copy.source + row * copy.shape.source_pitch;
    if (copy.target_is_device) require_device_range(target, copy.shape.width, "copy to");
    if (copy.source_is_device) require_device_range(source, copy.shape.width, "copy from");
    if (copy.target_is_pinned) require_pinned(target, copy.shape.width, "copy to");
    if (copy.source_is_pinned) require_pinned(source, copy.shape.width, "copy from");
  }
}

void copy_row(const Copy& copy, std::byte* target, const std::byte* source) {
  const size_t bytes = copy.shape.width;
  if (copy.source_is_device && !copy.target_is_device) require_initialised(source, bytes, "copy to the host from");
  if (target < source + bytes && source < target + bytes) {
    report("overlap", "copy of " + std::to_string(bytes) + " bytes between overlapping ranges");
  }
  std::memcpy(target, source, bytes);
  if (!copy.target_is_device) return;
  if (copy.source_is_device) {
    copy_initialised(target, source, bytes);
  } else {
    mark_initialised(target, bytes);
  }
}

void run_copy(const Copy& copy) {
  require_ranges(copy);
  const DeviceAccess access;
  for (size_t row = 0; row < copy.shape.rows; ++row) {
    copy_row(copy, copy.target + row * copy.shape.target_pitch, copy.source + row * copy.shape.source_pitch);
  }
}

WorkMaker copy_work(const Copy& copy) {
  return simple_work("a copy of " + std::to_string(copy.shape.width * copy.shape.rows) + " bytes",
                     [copy] { run_copy(copy); });
}

// The same copy from a private copy of the source.
WorkMaker staged_copy_work(const Copy& copy) {
  const auto staged = std::make_shared<std::vector<std::byte>>();
  staged->reserve(copy.shape.rows * copy.shape.width);
  for (size_t row = 0; row < copy.shape.rows; ++row) {
    const std::byte* source = copy.source + row * copy.shape.source_pitch;
    staged->insert(staged->end(), source, source + copy.shape.width);
  }
  Copy from_staged = copy;
  from_staged.source = staged->data();
  from_staged.source_is_pinned = false;
  from_staged.shape.source_pitch = copy.shape.width;
  return simple_work("a copy of " + std::to_string(staged->size()) + " bytes from pageable memory",
                     [from_staged, staged] { run_copy(from_staged); });
}

bool kind_fits(const Copy& copy, cudaMemcpyKind kind) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !copy.target_is_device && !copy.source_is_device;
    case cudaMemcpyHostToDevice:
      return copy.target_is_device && !copy.source_is_device;
    case cudaMemcpyDeviceToHost:
      return !copy.target_is_device && copy.source_is_device;
    case cudaMemcpyDeviceToDevice:
      return copy.target_is_device && copy.source_is_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

// cudaMemcpyAsync and its relatives.
cudaError_t copy_async(Lock& lock, const Copy& copy, const std::shared_ptr<Stream>& stream) {
  Scheduler& scheduler = Scheduler::instance();
  const bool from_pageable = !copy.source_is_device && is_pageable(copy.source, copy.shape.source_bytes(), "copy from");
  const bool to_pageable = !copy.target_is_device && is_pageable(copy.target, copy.shape.target_bytes(), "copy to");
  if (stream->capture) return scheduler.append(stream, copy_work(copy));
  if (from_pageable || to_pageable) count_host_synchronisation();
  const cudaError_t status = scheduler.append(stream, from_pageable ? staged_copy_work(copy) : copy_work(copy));
  if (status == cudaSuccess && to_pageable) scheduler.wait_for(lock, stream);
  return status;
}

// cudaMemcpy and its relatives, on the legacy stream.
cudaError_t copy_now(Lock& lock, const Copy& copy) {
  Scheduler& scheduler = Scheduler::instance();
  count_host_synchronisation();
  if (invalidate_captures_by_unsafe_call()) return cudaErrorStreamCaptureUnsupported;
  const auto stream = scheduler.legacy(current_device());
  const bool from_pageable = !copy.source_is_device && is_pageable(copy.source, copy.shape.source_bytes(), "copy from");
  const bool within_device = copy.source_is_device && copy.target_is_device;
  if (!copy.target_is_device) is_pageable(copy.target, copy.shape.target_bytes(), "copy to");
  if (from_pageable) scheduler.wait_for(lock, stream);
  const cudaError_t status = scheduler.append(stream, from_pageable ? staged_copy_work(copy) : copy_work(copy));
  const bool may_return_early = within_device || (from_pageable && copy.target_is_device);
  if (status == cudaSuccess && !may_return_early) scheduler.wait_for(lock, stream);
  return status;
}

// A copy in the order of a stream, or one that the host waits for when there is none.
cudaError_t start_copy(void* target, const void* source, const Shape& shape, cudaMemcpyKind kind,
                       const cudaStream_t* stream_handle) {
  if (shape.width == 0 || shape.rows == 0) return cudaSuccess;
  if (!target || !source) return remember_error(cudaErrorInvalidValue);
  if (shape.rows > 1 && (shape.target_pitch < shape.width || shape.source_pitch < shape.width)) {
    return remember_error(cudaErrorInvalidPitchValue);
  }
  const Copy copy = {.target = static_cast<std::byte*>(target),
                     .source = static_cast<const std::byte*>(source),
                     .shape = shape,
                     .target_is_device = is_device_address(target),
                     .source_is_device = is_device_address(source),
                     .target_is_pinned = is_pinned_host(target, shape.target_bytes()),
                     .source_is_pinned = is_pinned_host(source, shape.source_bytes())};
  if (static_cast<unsigned>(kind) > cudaMemcpyDefault) return remember_error(cudaErrorInvalidMemcpyDirection);
  if (!kind_fits(copy, kind)) return remember_error(cudaErrorInvalidValue);
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  require_ranges(copy);
  if (!stream_handle) return remember_error(copy_now(lock, copy));
  const auto stream = scheduler.find(*stream_handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  return remember_error(copy_async(lock, copy, stream));
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return start_copy(target, source, {bytes, 1, bytes, bytes}, kind, nullptr);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return start_copy(target, source, {bytes, 1, bytes, bytes}, kind, &stream);
}

cudaError_t cudaMemcpy2D(void* target, size_t target_pitch, const void* source, size_t source_pitch, size_t width,
                         size_t height, cudaMemcpyKind kind) {
  return start_copy(target, source, {width, height, target_pitch, source_pitch}, kind, nullptr);
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* source, size_t bytes, size_t offset,
                               cudaMemcpyKind kind) {
  size_t symbol_bytes = 0;
  auto* address = static_cast<std::byte*>(symbol_address(symbol, &symbol_bytes));
  const bool is_inside = address && offset <= symbol_bytes && bytes <= symbol_bytes - offset;
  return is_inside ? cudaMemcpy(address + offset, source, bytes, kind) : remember_error(cudaErrorInvalidSymbol);
}

cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!is_device_address(target)) return remember_error(cudaErrorInvalidValue);
  require_device_range(target, bytes, "fill of");
  return enqueue_work(stream, simple_work("a fill of " + std::to_string(bytes) + " bytes", [target, value, bytes] {
                        require_device_range(target, bytes, "fill of");
                        const DeviceAccess access;
                        std::memset(target, value, bytes);
                        mark_initialised(target, bytes);
                      }));
}

// Returns before the fill is done, as on a device.
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  return cudaMemsetAsync(target, value, bytes, cudaStreamLegacy);
}

}  // extern "C"
