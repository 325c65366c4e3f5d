// Memory of the device and of the host, and copies: what is given, what is refused, what is reported.
#include <cstring>

#include "../src/counters.h"
#include "host_test.h"

using namespace host_test;

namespace {

void* allocate(size_t bytes) {
  void* device = nullptr;
  EXPECT_CUDA(cudaMalloc(&device, bytes));
  return device;
}

void* allocate_pinned(size_t bytes) {
  void* pinned = nullptr;
  EXPECT_CUDA(cudaMallocHost(&pinned, bytes));
  return pinned;
}

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

void memory_is_limited() {
  size_t free = 0, total = 0;
  EXPECT_CUDA(cudaMemGetInfo(&free, &total));
  EXPECT(total == 8u << 20 && free == total);
  const int64_t before = cuda_emulation::device_allocations();
  void* first = allocate(5 << 20);
  EXPECT_CUDA(cudaMemGetInfo(&free, &total));
  EXPECT(free == 3u << 20);
  void* second = nullptr;
  EXPECT(cudaMalloc(&second, 5 << 20) == cudaErrorMemoryAllocation);
  EXPECT(second == nullptr);
  EXPECT(std::strcmp(cudaGetErrorString(cudaGetLastError()), "out of memory") == 0);
  EXPECT_CUDA(cudaFree(first));
  EXPECT_CUDA(cudaFree(allocate(5 << 20)));
  EXPECT_CUDA(cudaFree(nullptr));
  EXPECT(cudaFree(first) == cudaErrorInvalidValue);
  EXPECT(cuda_emulation::device_allocations() == before + 2);
}

// What was freed in stream order is there again for who allocates in the order of that stream.
void stream_ordered_memory_comes_back() {
  const cudaStream_t stream = make_stream();
  for (int turn = 0; turn < 4; ++turn) {
    void* memory = nullptr;
    EXPECT_CUDA(cudaMallocAsync(&memory, 5 << 20, stream));
    EXPECT_CUDA(cudaMemsetAsync(memory, 0, 5 << 20, stream));
    EXPECT_CUDA(cudaFreeAsync(memory, stream));
  }
  EXPECT_CUDA(cudaStreamSynchronize(stream));
}

// What was asked for before cudaFree is done first.
void free_waits() {
  void* memory = allocate(256);
  EXPECT_CUDA(cudaMemsetAsync(memory, 0, 256, make_stream()));
  EXPECT_CUDA(cudaFree(memory));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

// But cudaFree of what cudaMallocAsync gave does not wait.
void frees_too_early() {
  const cudaStream_t stream = make_stream();
  void* memory = nullptr;
  EXPECT_CUDA(cudaMallocAsync(&memory, 256, stream));
  EXPECT_CUDA(cudaMemsetAsync(memory, 0, 256, stream));
  EXPECT_CUDA(cudaFree(memory));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

void uses_memory_after_free() {
  void* memory = allocate(256);
  EXPECT_CUDA(cudaFree(memory));
  cudaMemset(memory, 0, 256);
}

void uses_memory_after_free_async() {
  const cudaStream_t stream = make_stream();
  void* memory = nullptr;
  EXPECT_CUDA(cudaMallocAsync(&memory, 256, stream));
  EXPECT_CUDA(cudaFreeAsync(memory, stream));
  EXPECT_CUDA(cudaMemsetAsync(memory, 0, 256, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
}

void frees_twice_in_stream_order() {
  const cudaStream_t stream = make_stream();
  void* memory = nullptr;
  EXPECT_CUDA(cudaMallocAsync(&memory, 256, stream));
  EXPECT_CUDA(cudaFreeAsync(memory, stream));
  cudaFreeAsync(memory, stream);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
}

void copies_too_much_to_the_device() {
  void* memory = allocate(100);
  const std::vector<char> values(104);
  cudaMemcpy(memory, values.data(), values.size(), cudaMemcpyHostToDevice);
}

void copies_too_much_from_pinned_memory() {
  void* memory = allocate(8192);
  cudaMemcpyAsync(memory, allocate_pinned(100), 128, cudaMemcpyHostToDevice, make_stream());
}

void fills_too_much() {
  cudaMemsetAsync(static_cast<char*>(allocate(100)) + 50, 0, 51, make_stream());
}

void copies_what_nobody_wrote() {
  std::vector<char> values(256);
  cudaMemcpy(values.data(), allocate(256), 256, cudaMemcpyDeviceToHost);
}

// Uninitialised memory may be copied on the device, and stays uninitialised there.
void copies_what_nobody_wrote_twice() {
  void* target = allocate(256);
  EXPECT_CUDA(cudaMemset(target, 0, 256));
  EXPECT_CUDA(cudaMemcpy(target, allocate(256), 256, cudaMemcpyDeviceToDevice));
  std::vector<char> values(256);
  cudaMemcpy(values.data(), target, 256, cudaMemcpyDeviceToHost);
}

void copies_within_overlapping_memory() {
  char* memory = static_cast<char*>(allocate(256));
  EXPECT_CUDA(cudaMemset(memory, 0, 256));
  EXPECT_CUDA(cudaMemcpy(memory + 8, memory, 64, cudaMemcpyDeviceToDevice));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

void reads_pinned_memory_after_free() {
  char* pinned = static_cast<char*>(allocate_pinned(100));
  EXPECT_CUDA(cudaFreeHost(pinned));
  volatile char value = *pinned;
  (void)value;
}

// cudaFreeHost does not wait for it.
void frees_pinned_memory_too_early() {
  void* memory = allocate(256);
  void* pinned = allocate_pinned(256);
  const cudaStream_t stream = make_stream();
  EXPECT_CUDA(cudaMemsetAsync(memory, 0, 256, stream));
  EXPECT_CUDA(cudaMemcpyAsync(pinned, memory, 256, cudaMemcpyDeviceToHost, stream));
  EXPECT_CUDA(cudaFreeHost(pinned));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

void wrong_calls_are_refused() {
  void* memory = allocate(64);
  char values[64] = {};
  EXPECT(cudaMemcpy(memory, values, 64, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpy(values, memory, 64, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpy(memory, memory, 64, static_cast<cudaMemcpyKind>(9)) == cudaErrorInvalidMemcpyDirection);
  EXPECT(cudaMemset(values, 0, 64) == cudaErrorInvalidValue);
  EXPECT(cudaFreeHost(values) == cudaErrorInvalidValue);
  EXPECT_CUDA(cudaMemcpy(memory, values, 0, cudaMemcpyHostToDevice));
}

// Columns 1 and 2 of a matrix of 3 x 4, there and back, with other pitches.
void pitched_copies() {
  float host[3][4], back[3][2] = {};
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 4; ++column) host[row][column] = static_cast<float>(10 * row + column);
  }
  void* memory = allocate(3 * 32);
  EXPECT_CUDA(cudaMemcpy2D(memory, 32, &host[0][1], sizeof host[0], 8, 3, cudaMemcpyHostToDevice));
  EXPECT_CUDA(cudaMemcpy2D(back, 8, memory, 32, 8, 3, cudaMemcpyDeviceToHost));
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 2; ++column) EXPECT(back[row][column] == host[row][column + 1]);
  }
  EXPECT(cudaMemcpy2D(memory, 4, host, 16, 8, 3, cudaMemcpyHostToDevice) == cudaErrorInvalidPitchValue);
}

void devices_have_their_own_memory() {
  EXPECT_CUDA(cudaSetDevice(1));
  allocate(1 << 20);
  size_t free_of_1 = 0, free_of_0 = 0, total = 0;
  EXPECT_CUDA(cudaMemGetInfo(&free_of_1, &total));
  EXPECT_CUDA(cudaSetDevice(0));
  EXPECT_CUDA(cudaMemGetInfo(&free_of_0, &total));
  EXPECT(free_of_0 == total && free_of_1 < total);
  EXPECT(cudaSetDevice(2) == cudaErrorInvalidDevice);
}

void devices_are_described() {
  int count = 0, device = -1, value = 0;
  EXPECT_CUDA(cudaGetDeviceCount(&count));
  EXPECT_CUDA(cudaGetDevice(&device));
  EXPECT(count == 2 && device == 0);
  cudaDeviceProp properties;
  EXPECT_CUDA(cudaGetDeviceProperties(&properties, 1));
  EXPECT(properties.major == 8 && properties.minor == 0 && properties.warpSize == 32);
  EXPECT_CUDA(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 1));
  EXPECT(value == properties.multiProcessorCount);
  EXPECT_CUDA(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  EXPECT(value == static_cast<int>(properties.sharedMemPerBlockOptin));
  EXPECT(cudaGetDeviceProperties(&properties, 2) == cudaErrorInvalidDevice);
  EXPECT_CUDA(cudaRuntimeGetVersion(&value));
  EXPECT(value == CUDART_VERSION);
}

void no_device_is_an_error() {
  int count = -1;
  EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
  EXPECT(std::strcmp(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice") == 0);
  EXPECT(cudaSetDevice(0) == cudaErrorNoDevice);
  void* memory = nullptr;
  EXPECT(cudaMalloc(&memory, 16) == cudaErrorNoDevice);
}

}  // namespace

int main() {
  const Environment small = {{"CUDA_EMULATION_DEVICE_MB", "8"}};
  const Environment checked = {{"CUDA_EMULATION_CHECK", "1"}};
  expect_success("memory is limited", small, memory_is_limited);
  expect_success("memory that was freed in stream order comes back", small, stream_ordered_memory_comes_back);
  for (const char* seed : {"1", "2", "3"}) {
    expect_success("cudaFree waits", {{"CUDA_EMULATION_SEED", seed}}, free_waits);
  }
  expect_found("a cudaFree that does not wait", frees_too_early);
  expect_success("wrong calls are refused", {}, wrong_calls_are_refused);
  expect_success("pitched copies", checked, pitched_copies);
  expect_success("devices have their own memory", {{"CUDA_EMULATION_DEVICES", "2"}}, devices_have_their_own_memory);
  expect_success("devices are described", {{"CUDA_EMULATION_DEVICES", "2"}}, devices_are_described);
  expect_success("no device is an error", {{"CUDA_EMULATION_DEVICES", "0"}}, no_device_is_an_error);
  expect_report("a fill after cudaFree", "fill of", uses_memory_after_free);
  expect_report("a fill after cudaFreeAsync", "fill of", uses_memory_after_free_async);
  expect_report("a second cudaFreeAsync", "freed twice", frees_twice_in_stream_order);
  expect_report("a copy that is too long", "copy to", copies_too_much_to_the_device);
  expect_report("a copy from pinned memory that is too long", "pinned memory of 100 bytes",
                copies_too_much_from_pinned_memory);
  expect_report("a fill that is too long", "fill of", fills_too_much);
  expect_report("a copy of uninitialised memory", "initialised", copies_what_nobody_wrote, checked);
  expect_report("a copy of a copy of uninitialised memory", "initialised", copies_what_nobody_wrote_twice, checked);
  expect_report("a copy between overlapping ranges", "overlap", copies_within_overlapping_memory);
  expect_found("pinned memory that is read after cudaFreeHost", reads_pinned_memory_after_free);
  expect_report("a copy to pinned memory after cudaFreeHost", "copy to pinned memory", frees_pinned_memory_too_early);
}
