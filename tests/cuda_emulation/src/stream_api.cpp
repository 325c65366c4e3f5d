// The run-time API of streams and of waiting for them.
#include <cuda_runtime_api.h>

#include <thread>

#include "capture.h"
#include "scheduler.h"

using namespace cuda_emulation;

namespace {

// The priorities of an A100: 0 is the lowest, -5 the highest.
constexpr int kLeastPriority = 0, kGreatestPriority = -5;

constexpr unsigned kStreamFlags = cudaStreamNonBlocking;

// Runs on a thread of its own, as on one of the driver's: it may wait for what other host threads do.
Work host_function_work(cudaHostFn_t function, void* data) {
  enum class State { kNew, kRunning, kDone };
  const auto state = std::make_shared<State>(State::kNew);  // under the scheduler's lock
  const auto advance = [function, data, state] {
    if (*state == State::kRunning) return Progress::kWaiting;
    if (*state == State::kDone) return Progress::kFinished;
    *state = State::kRunning;
    std::thread([function, data, state] {
      function(data);
      const Lock lock = Scheduler::instance().lock();
      *state = State::kDone;
      Scheduler::instance().notify();
    }).detach();
    return Progress::kAdvanced;
  };
  return {"a host function", advance};
}

// Why the host may not ask how far a stream is, or cudaSuccess. Captures that the question spoils are spoilt.
cudaError_t refusal_to_wait_for(Stream* stream) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (invalidate_capture_of(*stream)) return cudaErrorStreamCaptureUnsupported;
  const bool spoils_others = stream->is_legacy && invalidate_captures_of_blocking_streams(stream->device);
  return spoils_others ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  if (!stream || (flags & ~kStreamFlags) != 0) return remember_error(cudaErrorInvalidValue);
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const int clamped = priority > kLeastPriority      ? kLeastPriority
                      : priority < kGreatestPriority ? kGreatestPriority
                                                     : priority;
  *stream = scheduler.create(flags, clamped, current_device());
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, kLeastPriority);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
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

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = kLeastPriority;
  if (greatest) *greatest = kGreatestPriority;
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  *priority = stream->priority;
  return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  *flags = stream->flags;
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

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  if (!function) return remember_error(cudaErrorInvalidValue);
  return enqueue_work(stream, [function, data] { return host_function_work(function, data); });
}

}  // extern "C"
