// Streams and events: what waits for what, and that a wait that was forgotten is found for some seed.
#include <thread>

#include "../src/counters.h"
#include "host_test.h"

using namespace host_test;

namespace {

constexpr size_t kFloats = 64;
constexpr size_t kBytes = kFloats * sizeof(float);

cudaStream_t make_stream(unsigned flags = cudaStreamNonBlocking) {
  cudaStream_t stream = nullptr;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, flags));
  return stream;
}

cudaEvent_t make_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  EXPECT_CUDA(cudaEventCreateWithFlags(&event, flags));
  return event;
}

// One stream makes ones, another one copies them elsewhere; the host looks at what arrived.
struct TwoStreams {
  cudaStream_t first, second;
  float* made = upload(std::vector<float>(kFloats, 0));
  float* copied = upload(std::vector<float>(kFloats, -1));

  explicit TwoStreams(unsigned flags_of_first = cudaStreamNonBlocking, unsigned flags_of_second = cudaStreamNonBlocking)
      : first(make_stream(flags_of_first)), second(make_stream(flags_of_second)) {}

  void make() { EXPECT_CUDA(cudaMemsetAsync(made, 1, kBytes, first)); }
  void copy() { EXPECT_CUDA(cudaMemcpyAsync(copied, made, kBytes, cudaMemcpyDeviceToDevice, second)); }
  void expect_made() {
    EXPECT_CUDA(cudaStreamSynchronize(second));
    EXPECT(download(copied, kFloats)[kFloats - 1] != 0);
  }
};

void forgets_to_wait() {
  TwoStreams streams;
  streams.make();
  streams.copy();
  streams.expect_made();
}

void waits_for_an_event() {
  TwoStreams streams;
  const cudaEvent_t event = make_event();
  streams.make();
  EXPECT_CUDA(cudaEventRecord(event, streams.first));
  EXPECT_CUDA(cudaStreamWaitEvent(streams.second, event, 0));
  streams.copy();
  streams.expect_made();
}

// An event marks what was in the stream when it was recorded; it was recorded too early here.
void records_too_early() {
  TwoStreams streams;
  const cudaEvent_t event = make_event();
  EXPECT_CUDA(cudaEventRecord(event, streams.first));
  streams.make();
  EXPECT_CUDA(cudaStreamWaitEvent(streams.second, event, 0));
  streams.copy();
  streams.expect_made();
}

void trusts_the_legacy_stream() {
  TwoStreams streams;
  EXPECT_CUDA(cudaMemset(streams.made, 1, kBytes));
  streams.copy();
  streams.expect_made();
}

void blocking_streams_follow_the_legacy_stream() {
  TwoStreams streams(cudaStreamDefault, cudaStreamDefault);
  EXPECT_CUDA(cudaMemset(streams.made, 1, kBytes));
  streams.copy();
  streams.expect_made();
}

void the_legacy_stream_follows_blocking_streams() {
  TwoStreams streams(cudaStreamDefault);
  streams.make();
  EXPECT_CUDA(cudaMemcpyAsync(streams.copied, streams.made, kBytes, cudaMemcpyDeviceToDevice, nullptr));
  EXPECT_CUDA(cudaStreamSynchronize(nullptr));
  EXPECT(download(streams.copied, kFloats)[0] != 0);
}

void reads_pinned_memory_too_early() {
  const cudaStream_t stream = make_stream();
  float* device = upload(std::vector<float>(kFloats, 5));
  void* pinned = nullptr;
  EXPECT_CUDA(cudaMallocHost(&pinned, kBytes));
  EXPECT_CUDA(cudaMemcpyAsync(pinned, device, kBytes, cudaMemcpyDeviceToHost, stream));
  EXPECT(static_cast<float*>(pinned)[0] == 5);
}

void writes_pinned_memory_too_early() {
  const cudaStream_t stream = make_stream();
  float* device = upload(std::vector<float>(kFloats, 0));
  void* pinned = nullptr;
  EXPECT_CUDA(cudaMallocHost(&pinned, kBytes));
  static_cast<float*>(pinned)[0] = 5;
  EXPECT_CUDA(cudaMemcpyAsync(device, pinned, kBytes, cudaMemcpyHostToDevice, stream));
  static_cast<float*>(pinned)[0] = 6;
  EXPECT(download(device, kFloats)[0] == 5);
}

void pageable_memory_may_be_written_at_once() {
  const cudaStream_t stream = make_stream();
  float* device = upload(std::vector<float>(kFloats, 0));
  std::vector<float> values(kFloats, 5);
  EXPECT_CUDA(cudaMemcpyAsync(device, values.data(), kBytes, cudaMemcpyHostToDevice, stream));
  values.assign(kFloats, 6);
  EXPECT_CUDA(cudaMemcpyAsync(values.data(), device, kBytes, cudaMemcpyDeviceToHost, stream));
  EXPECT(values[0] == 5);
}

// More than a device lets a host be ahead.
void long_queues() {
  const cudaStream_t stream = make_stream();
  float* device = upload(std::vector<float>(kFloats, 0));
  for (int turn = 0; turn < 3000; ++turn) EXPECT_CUDA(cudaMemsetAsync(device, turn & 1, kBytes, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT(download(device, 1)[0] != 0);
}

void queries_end() {
  const cudaStream_t stream = make_stream();
  const cudaEvent_t begin = make_event(cudaEventDefault), end = make_event(cudaEventDefault);
  float* device = upload(std::vector<float>(kFloats, 0));
  EXPECT_CUDA(cudaEventRecord(begin, stream));
  EXPECT_CUDA(cudaMemsetAsync(device, 1, kBytes, stream));
  EXPECT_CUDA(cudaEventRecord(end, stream));
  while (cudaEventQuery(end) == cudaErrorNotReady) EXPECT(cudaGetLastError() == cudaErrorNotReady);
  EXPECT_CUDA(cudaEventSynchronize(end));
  EXPECT_CUDA(cudaMemsetAsync(device, 1, kBytes, stream));
  while (cudaStreamQuery(stream) == cudaErrorNotReady) EXPECT(cudaGetLastError() == cudaErrorNotReady);
  float milliseconds = -1;
  EXPECT_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
  EXPECT(milliseconds >= 0);
  const cudaEvent_t timeless = make_event();
  EXPECT_CUDA(cudaEventRecord(timeless, stream));
  EXPECT(cudaEventElapsedTime(&milliseconds, begin, timeless) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle);
  EXPECT(cudaGetLastError() == cudaSuccess);
}

void stale_handles_are_refused() {
  const cudaStream_t stream = make_stream();
  const cudaEvent_t event = make_event();
  EXPECT_CUDA(cudaStreamDestroy(stream));
  EXPECT_CUDA(cudaEventDestroy(event));
  make_stream();
  EXPECT(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaEventRecord(event, nullptr) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaPeekAtLastError() == cudaErrorInvalidResourceHandle);
}

void work_outlives_its_stream() {
  const cudaStream_t stream = make_stream();
  float* device = upload(std::vector<float>(kFloats, 0));
  EXPECT_CUDA(cudaMemsetAsync(device, 1, kBytes, stream));
  EXPECT_CUDA(cudaStreamDestroy(stream));
  EXPECT(download(device, kFloats)[0] != 0);
}

void synchronisations_are_counted() {
  const cudaStream_t stream = make_stream();
  const cudaEvent_t event = make_event();
  float* device = upload(std::vector<float>(kFloats, 0));
  void* pinned = nullptr;
  EXPECT_CUDA(cudaMallocHost(&pinned, kBytes));
  const int64_t before = cuda_emulation::host_synchronisations();
  EXPECT_CUDA(cudaMemsetAsync(device, 0, kBytes, stream));
  EXPECT_CUDA(cudaMemcpyAsync(pinned, device, kBytes, cudaMemcpyDeviceToHost, stream));
  EXPECT_CUDA(cudaEventRecord(event, stream));
  EXPECT_CUDA(cudaStreamWaitEvent(nullptr, event, 0));
  EXPECT(cuda_emulation::host_synchronisations() == before);
  EXPECT_CUDA(cudaEventSynchronize(event));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_CUDA(cudaDeviceSynchronize());
  float value = 0;
  EXPECT_CUDA(cudaMemcpyAsync(&value, device, sizeof value, cudaMemcpyDeviceToHost, stream));
  EXPECT(cuda_emulation::host_synchronisations() == before + 4);
}

void waits_beside_work_are_counted() {
  const cudaStream_t stream = make_stream();
  const cudaEvent_t event = make_event();
  float* device = upload(std::vector<float>(kFloats, 0));
  const int64_t waits = cuda_emulation::waits_with_work_behind();
  const int64_t queries = cuda_emulation::queries_without_work_behind();
  EXPECT_CUDA(cudaMemsetAsync(device, 0, kBytes, stream));
  EXPECT_CUDA(cudaEventRecord(event, stream));
  // Whether it says "not ready" of a stream that ends here is the schedule's choice.
  const bool was_ready = cudaEventQuery(event) == cudaSuccess;
  EXPECT(cuda_emulation::queries_without_work_behind() == queries + (was_ready ? 0 : 1));
  EXPECT_CUDA(cudaEventSynchronize(event));
  EXPECT(cuda_emulation::waits_with_work_behind() == waits);
  EXPECT_CUDA(cudaMemsetAsync(device, 1, kBytes, stream));
  cudaEventQuery(event);
  EXPECT_CUDA(cudaEventSynchronize(event));
  EXPECT(cuda_emulation::waits_with_work_behind() == waits + 1);
  EXPECT(cuda_emulation::queries_without_work_behind() == queries + (was_ready ? 0 : 1));
  cudaGetLastError();
}

// Two host threads, each with a stream of its own.
void threads_share_a_device() {
  const auto work = [](float value) {
    const cudaStream_t stream = make_stream();
    for (int turn = 0; turn < 50; ++turn) {
      std::vector<float> values(kFloats, value + static_cast<float>(turn));
      float* device = upload(values);
      std::vector<float> back(kFloats);
      EXPECT_CUDA(cudaMemcpyAsync(back.data(), device, kBytes, cudaMemcpyDeviceToHost, stream));
      EXPECT(back == values);
      EXPECT_CUDA(cudaFree(device));
    }
  };
  std::thread first(work, 0.f), second(work, 1000.f);
  first.join();
  second.join();
}

void expect_right(const char* name, const std::function<void()>& body) {
  for (int seed = 1; seed <= 8; ++seed) {
    expect_success(name, {{"CUDA_EMULATION_SEED", std::to_string(seed)}}, body);
  }
}

}  // namespace

int main() {
  expect_found("a second stream that does not wait", forgets_to_wait);
  expect_found("an event that is recorded too early", records_too_early);
  expect_found("a non-blocking stream after cudaMemset", trusts_the_legacy_stream);
  expect_found("pinned memory read too early", reads_pinned_memory_too_early);
  expect_found("pinned memory written too early", writes_pinned_memory_too_early);
  expect_right("an event is waited for", waits_for_an_event);
  expect_right("blocking streams follow the legacy stream", blocking_streams_follow_the_legacy_stream);
  expect_right("the legacy stream follows blocking streams", the_legacy_stream_follows_blocking_streams);
  expect_right("pageable memory is staged", pageable_memory_may_be_written_at_once);
  expect_right("long queues", long_queues);
  expect_right("queries end", queries_end);
  expect_right("stale handles are refused", stale_handles_are_refused);
  expect_right("work outlives its stream", work_outlives_its_stream);
  expect_right("synchronisations are counted", synchronisations_are_counted);
  expect_right("waits beside work are counted", waits_beside_work_are_counted);
  expect_right("threads share a device", threads_share_a_device);
}
