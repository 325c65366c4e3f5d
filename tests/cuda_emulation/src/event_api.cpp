// Events: marks in a stream that other streams and the host can wait for.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>

#include "capture.h"
#include "handles.h"
#include "scheduler.h"

using namespace cuda_emulation;

namespace {

constexpr unsigned kEventFlags = cudaEventBlockingSync | cudaEventDisableTiming;

struct Event {
  int device;
  bool keeps_time;
  Mark mark;  // of the last record; no stream before the first
  std::chrono::steady_clock::time_point completed_at;
  // If the last record was captured: into what, and the nodes that it stands after.
  std::weak_ptr<Capture> capture;
  std::vector<size_t> captured_after;
  bool is_captured = false;
};

HandleTable<Event, cudaEvent_t>& events() {
  static auto& table = *new HandleTable<Event, cudaEvent_t>;
  return table;
}

cudaError_t record(const std::shared_ptr<Event>& event, const std::shared_ptr<Stream>& stream) {
  if (event->device != stream->device) return cudaErrorInvalidResourceHandle;
  event->is_captured = stream->capture != nullptr;
  if (stream->capture) {
    event->capture = stream->capture;
    event->captured_after = stream->capture_tail;
    return cudaSuccess;
  }
  const uint64_t number = stream->issued + 1;
  event->mark = {stream, number};
  const auto stamp = [event, stream, number] {
    // Another record may have come since.
    if (event->mark.stream == stream && event->mark.number == number) {
      event->completed_at = std::chrono::steady_clock::now();
    }
  };
  return Scheduler::instance().append(stream, simple_work("the record of an event", stamp));
}

// A stream that waits for an event of a capture joins it.
cudaError_t join_capture(Stream& stream, const Event& event) {
  const auto capture = event.capture.lock();
  if (!capture) return cudaErrorCapturedEvent;
  if (stream.capture && stream.capture != capture) return cudaErrorStreamCaptureMerge;
  stream.capture = capture;
  for (const size_t node : event.captured_after) {
    if (std::find(stream.capture_tail.begin(), stream.capture_tail.end(), node) == stream.capture_tail.end()) {
      stream.capture_tail.push_back(node);
    }
  }
  return cudaSuccess;
}

// Why the host may not ask whether an event was reached, or cudaSuccess.
cudaError_t refusal_to_wait_for(const Event* event) {
  if (!event) return cudaErrorInvalidResourceHandle;
  if (event->is_captured) return cudaErrorCapturedEvent;
  return invalidate_captures_by_unsafe_call() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  if (flags & cudaEventInterprocess) report("not emulated", "events between processes");
  if (!handle || (flags & ~kEventFlags) != 0) return remember_error(cudaErrorInvalidValue);
  auto event = std::make_shared<Event>();
  event->device = current_device();
  event->keeps_time = (flags & cudaEventDisableTiming) == 0;
  const Lock lock = Scheduler::instance().lock();
  *handle = events().add(std::move(event));
  return cudaSuccess;
}

// Streams that wait for it keep their mark.
cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  const Lock lock = Scheduler::instance().lock();
  return events().remove(handle) ? cudaSuccess : remember_error(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto event = events().find(handle);
  const auto stream = scheduler.find(stream_handle);
  if (!event || !stream) return remember_error(cudaErrorInvalidResourceHandle);
  return remember_error(record(event, stream));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned flags) {
  if (flags != cudaEventWaitDefault) return remember_error(cudaErrorInvalidValue);
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto event = events().find(handle);
  const auto stream = scheduler.find(stream_handle);
  if (!event || !stream) return remember_error(cudaErrorInvalidResourceHandle);
  if (event->is_captured) return remember_error(join_capture(*stream, *event));
  if (!event->mark.stream) return cudaSuccess;  // never recorded: nothing to wait for
  if (stream->capture) {
    invalidate_capture_of(*stream);
    return remember_error(cudaErrorStreamCaptureIsolation);
  }
  return remember_error(scheduler.append(stream, simple_work("a wait for an event", [] {}), {event->mark}));
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto event = events().find(handle);
  if (const cudaError_t refusal = refusal_to_wait_for(event.get())) return remember_error(refusal);
  count_event_wait(event->mark);
  scheduler.wait_for(lock, Mark(event->mark), "an event");
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto event = events().find(handle);
  if (const cudaError_t refusal = refusal_to_wait_for(event.get())) return remember_error(refusal);
  count_event_query(event->mark);
  const bool was_reached = event->mark.reached();
  if (!was_reached) scheduler.run_for_query();
  return was_reached ? cudaSuccess : remember_error(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin_handle, cudaEvent_t end_handle) {
  const Lock lock = Scheduler::instance().lock();
  const auto begin = events().find(begin_handle);
  const auto end = events().find(end_handle);
  if (!milliseconds) return remember_error(cudaErrorInvalidValue);
  for (const auto& event : {begin, end}) {
    if (!event || !event->keeps_time || !event->mark.stream) return remember_error(cudaErrorInvalidResourceHandle);
    if (event->is_captured) return remember_error(cudaErrorCapturedEvent);
  }
  if (!begin->mark.reached() || !end->mark.reached()) return remember_error(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->completed_at - begin->completed_at).count();
  return cudaSuccess;
}

}  // extern "C"
