// The run-time API of streams and of waiting for them.
#include <cuda_runtime_api.h>

#include "capture.h"
#include "scheduler.h"

using namespace cuda_emulation;

namespace {

constexpr unsigned kStreamFlags = cudaStreamNonBlocking;

// Why the host may not ask how far a stream is, or cudaSuccess. Captures that the question spoils are spoilt.
cudaError_t refusal_to_wait_for(Stream* stream) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (invalidate_capture_of(*stream)) return cudaErrorStreamCaptureUnsupported;
  const bool spoils_others = stream->is_legacy && invalidate_captures_of_blocking_streams(stream->device);
  return spoils_others ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (!stream || (flags & ~kStreamFlags) != 0) return remember_error(cudaErrorInvalidValue);
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  *stream = scheduler.create(flags, current_device());
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream || stream->is_legacy) return remember_error(cudaErrorInvalidResourceHandle);
  invalidate_capture_of(*stream);
  scheduler.destroy(handle);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  count_host_synchronisation();
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (const cudaError_t refusal = refusal_to_wait_for(stream.get())) return remember_error(refusal);
  scheduler.wait_for(lock, stream);
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (const cudaError_t refusal = refusal_to_wait_for(stream.get())) return remember_error(refusal);
  // A program that asks again and again sees the work go on.
  const bool was_idle = stream->is_idle();
  if (!was_idle) scheduler.run_for_query();
  return was_idle ? cudaSuccess : remember_error(cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize() {
  count_host_synchronisation();
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  if (invalidate_captures_of_device(current_device())) return remember_error(cudaErrorStreamCaptureUnsupported);
  scheduler.wait_for_device(lock, current_device());
  return cudaSuccess;
}

}  // extern "C"
