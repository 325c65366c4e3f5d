// The run-time API of memory: of the device, and of the host where the device is to know it.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstring>
#include <set>

#include "capture.h"
#include "pinned.h"
#include "scheduler.h"

using namespace cuda_emulation;

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPinnedAlignment = 64;

// What cudaMallocAsync gave, for which cudaFree does not wait. Under the scheduler's lock.
std::set<const void*>& stream_ordered() {
  static auto& addresses = *new std::set<const void*>;
  return addresses;
}

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

cudaError_t allocate(Lock& lock, void** address, size_t bytes, const std::shared_ptr<Stream>& stream) {
  *address = device_allocate(bytes, stream->device);
  // Memory that was freed in stream order is there again once the stream has come so far.
  if (!*address) {
    Scheduler::instance().wait_for(lock, stream);
    *address = device_allocate(bytes, stream->device);
  }
  if (!*address) return cudaErrorMemoryAllocation;
  count_device_allocation();
  return cudaSuccess;
}

// Pages of their own whose end is the end of the memory, so that a run past the end traps. Never given back, so that
// an access after cudaFreeHost traps, too.
void* allocate_pinned(size_t bytes) {
  const size_t mapped = round_up(bytes, kPage);
  void* pages = mmap(nullptr, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  mprotect(static_cast<std::byte*>(pages) + mapped, kPage, PROT_NONE);
  std::byte* begin = static_cast<std::byte*>(pages) + mapped - round_up(bytes, kPinnedAlignment);
  // Not a number in every floating-point format.
  std::memset(begin, 0xFF, bytes);
  return begin;
}

void release_pinned(void* begin, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  void* pages = reinterpret_cast<void*>(address / kPage * kPage);
  const size_t mapped = round_up(bytes + address % kPage, kPage);
  madvise(pages, mapped, MADV_DONTNEED);
  mprotect(pages, mapped, PROT_NONE);
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** address, size_t bytes) {
  count_host_synchronisation();
  if (!address) return remember_error(cudaErrorInvalidValue);
  if (settings().devices == 0) return remember_error(cudaErrorNoDevice);
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  if (invalidate_captures_by_unsafe_call()) return remember_error(cudaErrorStreamCaptureUnsupported);
  *address = nullptr;
  if (bytes == 0) return cudaSuccess;
  *address = device_allocate(bytes, current_device());
  if (!*address) return remember_error(cudaErrorMemoryAllocation);
  count_device_allocation();
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (!address) return cudaSuccess;
  count_host_synchronisation();
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  if (invalidate_captures_by_unsafe_call()) return remember_error(cudaErrorStreamCaptureUnsupported);
  const bool waits = stream_ordered().erase(address) == 0;
  const int device = device_of(address);
  if (waits && device >= 0) scheduler.wait_for_device(lock, device);
  return device_free(address) ? cudaSuccess : remember_error(cudaErrorInvalidValue);
}

cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t stream_handle) {
  if (!address) return remember_error(cudaErrorInvalidValue);
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto stream = scheduler.find(stream_handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  if (stream->capture) report("not emulated", "cudaMallocAsync in a stream that is being captured");
  *address = nullptr;
  if (bytes == 0) return cudaSuccess;
  const cudaError_t status = allocate(lock, address, bytes, stream);
  if (status == cudaSuccess) stream_ordered().insert(*address);
  return remember_error(status);
}

cudaError_t cudaFreeAsync(void* address, cudaStream_t stream_handle) {
  if (!address) return cudaSuccess;
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto stream = scheduler.find(stream_handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  if (stream->capture) report("not emulated", "cudaFreeAsync in a stream that is being captured");
  void* begin = nullptr;
  if (device_allocation_bytes(address, &begin) == 0 || begin != address) return remember_error(cudaErrorInvalidValue);
  const auto release = [address] {
    stream_ordered().erase(address);
    if (!device_free(address)) report("freed twice", "cudaFreeAsync of " + describe_address(address));
  };
  return remember_error(scheduler.append(stream, simple_work("cudaFreeAsync", release)));
}

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned flags) {
  constexpr unsigned kFlags = cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined;
  count_host_synchronisation();
  if (!address || (flags & ~kFlags) != 0) return remember_error(cudaErrorInvalidValue);
  const Lock lock = Scheduler::instance().lock();
  if (invalidate_captures_by_unsafe_call()) return remember_error(cudaErrorStreamCaptureUnsupported);
  *address = nullptr;
  if (bytes == 0) return cudaSuccess;
  *address = allocate_pinned(bytes);
  if (!*address) return remember_error(cudaErrorMemoryAllocation);
  add_pinned(*address, bytes);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** address, size_t bytes) {
  return cudaHostAlloc(address, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* address) {
  if (!address) return cudaSuccess;
  count_host_synchronisation();
  const Lock lock = Scheduler::instance().lock();
  if (invalidate_captures_by_unsafe_call()) return remember_error(cudaErrorStreamCaptureUnsupported);
  const size_t bytes = remove_pinned(address);
  if (bytes == 0) return remember_error(cudaErrorInvalidValue);
  release_pinned(address, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock = Scheduler::instance().lock();
  if (total) *total = settings().device_bytes;
  if (free) *free = settings().device_bytes - device_bytes_in_use(current_device());
  return cudaSuccess;
}

}  // extern "C"
