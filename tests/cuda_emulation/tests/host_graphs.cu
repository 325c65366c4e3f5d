// Captured streams and launched graphs with kernels and copies; variables of the device; launches that are refused and
// what kernels say of themselves.
#include <cuda_runtime.h>

#include <cstring>
#include <thread>

#include "../src/counters.h"
#include "host_test.h"

using namespace host_test;

namespace emulation_test {

constexpr int kCount = 1000;
__device__ float device_factor = 3;
__constant__ int constant_values[4];

__global__ void __launch_bounds__(128) scale_and_add(float* y, const float* x, float factor, int count) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index < count) y[index] = factor * y[index] + x[index];
}

__global__ void use_variables(float* y) {
  y[threadIdx.x] = device_factor * static_cast<float>(constant_values[threadIdx.x % 4]);
}

__global__ void use_dynamic_shared(float* y) {
  extern __shared__ float values[];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

}  // namespace emulation_test

namespace {

using namespace emulation_test;

constexpr size_t kBytes = kCount * sizeof(float);

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  EXPECT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void launch(float* y, const float* x, float factor, cudaStream_t stream) {
  scale_and_add<<<(kCount + 127) / 128, 128, 0, stream>>>(y, x, factor, kCount);
  EXPECT_CUDA(cudaGetLastError());
}

cudaGraphExec_t end_capture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
  EXPECT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  EXPECT_CUDA(cudaGraphDestroy(graph));
  return executable;
}

cudaStreamCaptureStatus capture_status(cudaStream_t stream) {
  cudaStreamCaptureStatus status;
  EXPECT_CUDA(cudaStreamIsCapturing(stream, &status));
  return status;
}

// y = 2 y + x with x from pinned memory and y back to pinned memory.
struct Loop {
  cudaStream_t stream = make_stream();
  float* y = upload(std::vector<float>(kCount, 1));
  float* x = upload(std::vector<float>(kCount, 0));
  float *input = nullptr, *output = nullptr;

  Loop() {
    EXPECT_CUDA(cudaMallocHost(&input, kBytes));
    EXPECT_CUDA(cudaMallocHost(&output, kBytes));
    for (int index = 0; index < kCount; ++index) input[index] = 1;
  }
  void enqueue() {
    EXPECT_CUDA(cudaMemcpyAsync(x, input, kBytes, cudaMemcpyHostToDevice, stream));
    launch(y, x, 2, stream);
    EXPECT_CUDA(cudaMemcpyAsync(output, y, kBytes, cudaMemcpyDeviceToHost, stream));
  }
};

void a_graph_is_launched_again_and_again() {
  Loop loop;
  EXPECT_CUDA(cudaStreamBeginCapture(loop.stream, cudaStreamCaptureModeGlobal));
  EXPECT(capture_status(loop.stream) == cudaStreamCaptureStatusActive);
  loop.enqueue();
  const cudaGraphExec_t executable = end_capture(loop.stream);
  EXPECT(capture_status(loop.stream) == cudaStreamCaptureStatusNone);
  EXPECT_CUDA(cudaStreamSynchronize(loop.stream));
  EXPECT(download(loop.y, 1)[0] == 1);
  const int64_t launches = cuda_emulation::kernel_launches();
  for (int turn = 1; turn <= 4; ++turn) {
    EXPECT_CUDA(cudaGraphLaunch(executable, loop.stream));
    EXPECT_CUDA(cudaStreamSynchronize(loop.stream));
    EXPECT(loop.output[kCount - 1] == static_cast<float>((2 << turn) - 1));
  }
  EXPECT(cuda_emulation::kernel_launches() == launches + 4);
  // The input may change between launches; launches of one graph follow each other in any streams.
  loop.input[kCount - 1] = 2;
  const cudaStream_t other = make_stream();
  EXPECT_CUDA(cudaGraphLaunch(executable, loop.stream));
  EXPECT_CUDA(cudaGraphLaunch(executable, other));
  EXPECT_CUDA(cudaGraphExecDestroy(executable));
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT(loop.output[kCount - 1] == (31 * 2 + 2) * 2 + 2 && loop.output[0] == 127);
  EXPECT(cudaGraphLaunch(executable, other) == cudaErrorInvalidValue);
}

// A second stream joins the capture by an event and comes back by another one.
void capture_two_streams(bool joins) {
  const cudaStream_t first = make_stream(), second = make_stream();
  const cudaEvent_t fork = make_event(), join = make_event();
  float* y = upload(std::vector<float>(kCount, 1));
  float* z = upload(std::vector<float>(kCount, 1));
  float* x = upload(std::vector<float>(kCount, 5));
  EXPECT_CUDA(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal));
  launch(x, x, 1, first);  // 10
  EXPECT_CUDA(cudaEventRecord(fork, first));
  EXPECT_CUDA(cudaStreamWaitEvent(second, fork, 0));
  EXPECT(capture_status(second) == cudaStreamCaptureStatusActive);
  launch(y, x, 1, second);  // 11
  launch(z, x, 2, first);   // 12
  EXPECT_CUDA(cudaEventRecord(join, second));
  EXPECT(cudaEventQuery(join) == cudaErrorCapturedEvent);
  EXPECT(cudaGetLastError() == cudaErrorCapturedEvent);
  if (joins) EXPECT_CUDA(cudaStreamWaitEvent(first, join, 0));
  launch(z, y, 1, first);  // 23
  cudaGraph_t graph = nullptr;
  if (!joins) {
    EXPECT(cudaStreamEndCapture(first, &graph) == cudaErrorStreamCaptureUnjoined);
    EXPECT(graph == nullptr);
    return;
  }
  const cudaGraphExec_t executable = end_capture(first);
  EXPECT(capture_status(second) == cudaStreamCaptureStatusNone);
  EXPECT_CUDA(cudaGraphLaunch(executable, second));
  EXPECT_CUDA(cudaStreamSynchronize(second));
  EXPECT(download(z, kCount)[kCount - 1] == 23);
}

void two_streams_in_a_graph() {
  capture_two_streams(true);
}
void a_stream_that_does_not_join() {
  capture_two_streams(false);
}

void expect_spoilt(cudaStream_t stream) {
  EXPECT(capture_status(stream) == cudaStreamCaptureStatusInvalidated);
  cudaGraph_t graph = nullptr;
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  EXPECT(capture_status(stream) == cudaStreamCaptureStatusNone);
}

void calls_that_spoil_a_capture() {
  const cudaStream_t stream = make_stream();
  void* memory = upload({1});
  float value = 0;
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaErrorIllegalState);
  EXPECT(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  expect_spoilt(stream);
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  EXPECT(cudaMemcpy(&value, memory, 4, cudaMemcpyDeviceToHost) == cudaErrorStreamCaptureUnsupported);
  expect_spoilt(stream);
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  EXPECT(cudaMalloc(&memory, 4) == cudaErrorStreamCaptureUnsupported);
  expect_spoilt(stream);
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  EXPECT_CUDA(cudaMalloc(&memory, 4));
  EXPECT(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported);
  expect_spoilt(stream);
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  std::thread([&] { EXPECT_CUDA(cudaMalloc(&memory, 4)); }).join();
  cudaGraph_t graph = nullptr;
  std::thread([&] { EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureWrongThread); }).join();
  EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
  EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
  EXPECT(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported);
}

void the_legacy_stream_spoils_captures_of_blocking_streams() {
  cudaStream_t stream = nullptr;
  void* memory = upload({1});
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamDefault));
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  EXPECT(cudaMemset(memory, 0, 4) == cudaErrorStreamCaptureImplicit);
  expect_spoilt(stream);
}

void variables_of_the_device() {
  float* y = upload(std::vector<float>(4, 0));
  const int values[4] = {1, 2, 3, 4};
  const float factor = 10;
  EXPECT_CUDA(cudaMemcpyToSymbol(constant_values, values, sizeof values));
  EXPECT_CUDA(cudaDeviceSynchronize());
  use_variables<<<1, 4>>>(y);
  EXPECT(download(y, 4) == std::vector<float>({3, 6, 9, 12}));
  EXPECT_CUDA(cudaMemcpyToSymbol(device_factor, &factor, sizeof factor));
  use_variables<<<1, 4>>>(y);
  EXPECT(download(y, 4) == std::vector<float>({10, 20, 30, 40}));
  EXPECT(cudaMemcpyToSymbol(constant_values, values, sizeof values, 4) == cudaErrorInvalidSymbol);
}

void launches_that_are_refused() {
  float* y = upload(std::vector<float>(1024, 0));
  scale_and_add<<<1, 129>>>(y, y, 1, 10);
  EXPECT(cudaGetLastError() == cudaErrorLaunchOutOfResources);
  use_variables<<<1, 1025>>>(y);
  EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
  constexpr int kMuch = 100 << 10;
  use_dynamic_shared<<<1, 32, kMuch>>>(y);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  EXPECT_CUDA(cudaFuncSetAttribute(use_dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, kMuch));
  use_dynamic_shared<<<1, 32, kMuch>>>(y);
  EXPECT_CUDA(cudaGetLastError());
  EXPECT(download(y, 32)[0] == 31);
  EXPECT(cudaFuncSetAttribute(use_dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10) ==
         cudaErrorInvalidValue);
  cudaStream_t stream = make_stream();
  EXPECT_CUDA(cudaSetDevice(1));
  use_dynamic_shared<<<1, 32, 128, stream>>>(y);
  EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle);
}

void what_kernels_say_of_themselves() {
  cudaFuncAttributes attributes;
  EXPECT_CUDA(cudaFuncGetAttributes(&attributes, scale_and_add));
  EXPECT(attributes.maxThreadsPerBlock == 128 && attributes.sharedSizeBytes == 0);
  int blocks = 0;
  EXPECT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, use_dynamic_shared, 1024, 0));
  EXPECT(blocks >= 1 && blocks <= 2);
  EXPECT_CUDA(cudaFuncSetAttribute(use_dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10));
  EXPECT_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, use_dynamic_shared, 32, 100 << 10));
  EXPECT(blocks == 1);
  const int not_a_kernel = 0;
  EXPECT(cudaFuncGetAttributes(&attributes, &not_a_kernel) == cudaErrorInvalidDeviceFunction);
}

void uses_memory_after_free_async() {
  const cudaStream_t stream = make_stream();
  void* memory = nullptr;
  EXPECT_CUDA(cudaMallocAsync(&memory, kBytes, stream));
  EXPECT_CUDA(cudaMemsetAsync(memory, 0, kBytes, stream));
  EXPECT_CUDA(cudaFreeAsync(memory, stream));
  launch(static_cast<float*>(memory), static_cast<float*>(memory), 1, stream);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
}

void computes_before_the_other_stream_has_copied() {
  const cudaStream_t copies = make_stream(), kernels = make_stream();
  float* input = nullptr;
  EXPECT_CUDA(cudaMallocHost(&input, kBytes));
  for (int index = 0; index < kCount; ++index) input[index] = 1;
  float* x = upload(std::vector<float>(kCount, 0));
  float* y = upload(std::vector<float>(kCount, 0));
  EXPECT_CUDA(cudaMemcpyAsync(x, input, kBytes, cudaMemcpyHostToDevice, copies));
  launch(y, x, 0, kernels);
  EXPECT_CUDA(cudaStreamSynchronize(kernels));
  EXPECT(download(y, kCount)[0] == 1);
}

}  // namespace

int main() {
  for (int seed = 1; seed <= 4; ++seed) {
    const Environment environment = {{"CUDA_EMULATION_SEED", std::to_string(seed)}, {"CUDA_EMULATION_CHECK", "1"}};
    expect_success("a graph is launched again and again", environment, a_graph_is_launched_again_and_again);
    expect_success("two streams in a graph", environment, two_streams_in_a_graph);
  }
  expect_success("a stream that does not join", {}, a_stream_that_does_not_join);
  expect_success("calls that spoil a capture", {}, calls_that_spoil_a_capture);
  expect_success("the legacy stream spoils captures", {}, the_legacy_stream_spoils_captures_of_blocking_streams);
  expect_success("variables of the device", {{"CUDA_EMULATION_CHECK", "1"}}, variables_of_the_device);
  expect_success("launches that are refused", {{"CUDA_EMULATION_DEVICES", "2"}}, launches_that_are_refused);
  expect_success("what kernels say of themselves", {}, what_kernels_say_of_themselves);
  expect_report("a kernel after cudaFreeAsync", "freed device allocation", uses_memory_after_free_async,
                {{"CUDA_EMULATION_CHECK", "1"}});
  expect_found("a kernel that does not wait for a copy", computes_before_the_other_stream_has_copied);
}
