// What the two halves of the emulation offer each other.
//
// The device side runs kernels: memory of the emulated device, fibers, checks. The host side runs the API: streams,
// events, copies, graphs, libraries. Nothing else crosses between them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace cuda_emulation {

// ---- Settings: read once from the environment ---------------------------------------------------------------------

// A connection that breaks while all ranks live.
struct NcclError {
  int rank;
  int64_t collective;  // number in its communicator, from 0
};

struct Settings {
  bool check;                           // CUDA_EMULATION_CHECK: races, initialisation, exact bounds
  uint64_t seed;                        // CUDA_EMULATION_SEED: every random choice follows from it
  bool host_protect;                    // CUDA_EMULATION_HOST_PROTECT: host code cannot touch device memory
  size_t device_bytes;                  // CUDA_EMULATION_DEVICE_MB: memory of one emulated device
  int devices;                          // CUDA_EMULATION_DEVICES
  std::string counters;                 // CUDA_EMULATION_COUNTERS: file for the counters, empty for none
  std::optional<NcclError> nccl_error;  // CUDA_EMULATION_NCCL_ERROR
};
const Settings& settings();

// A small generator; each user seeds its own from settings().seed and a constant of its own.
class Random {
 public:
  explicit Random(uint64_t seed) : state_((seed + 1) * 0x9E3779B97F4A7C15ull) {}
  uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 32);
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((uint64_t{next()} * bound) >> 32); }

 private:
  uint64_t state_;
};

// ---- Errors -------------------------------------------------------------------------------------------------------

// Prints one report (inside a kernel with kernel, block, thread and source line) and aborts the process.
[[noreturn]] void report(const char* kind, const std::string& message);

// ---- Offered by the device side -----------------------------------------------------------------------------------

// Memory of an emulated device. Addresses are never used again after device_free. All of these may be called from any
// host thread.
void* device_allocate(size_t bytes, int device = 0);  // nullptr when the emulated memory is out
bool device_free(void* address);                      // false when `address` does not begin a live allocation
size_t device_bytes_in_use(int device = 0);
bool is_device_address(const void* address);  // inside the address space of the devices, live or not
int device_of(const void* address);           // -1 outside live allocations
size_t device_allocation_bytes(const void* address, void** begin = nullptr);  // 0 outside live allocations
std::string describe_address(const void* address);  // "device allocation 3 (4096 bytes), offset 12"

// Reports unless [address, address + bytes) lies inside one live allocation. `what` opens the message.
void require_device_range(const void* address, size_t bytes, const char* what);
// Initialisation is tracked in check mode only; both do nothing otherwise.
void mark_initialised(const void* address, size_t bytes);
void require_initialised(const void* address, size_t bytes, const char* what);
// What a copy inside or between devices does to the initialisation of its target: it copies it.
void copy_initialised(void* target, const void* source, size_t bytes);

// Host code may touch device memory while one of these lives (they nest and count over threads).
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

// What a kernel needs, nullptr for what is not a kernel; `function` is the host's stub.
struct KernelFacts {
  const char* name;
  size_t static_shared_bytes;
  int max_threads;  // in a block: __launch_bounds__, 1024 without
};
const KernelFacts* kernel_facts(const void* function);

// Where a __device__ or __constant__ variable lives, nullptr when `symbol` is not one; `symbol` is the host's shadow
// variable, as the run-time API gets it.
void* symbol_address(const void* symbol, size_t* bytes);

// ---- Offered by the host side -------------------------------------------------------------------------------------

// Appends a kernel to a stream, or to the graph that the stream is being captured into; then `run` may run many times.
// Runs hold the lock of the host side: they must not call the API. A failure is remembered for cudaGetLastError.
cudaError_t enqueue(cudaStream_t stream, const char* what, std::function<void()> run);
// The dynamic shared memory that a kernel may ask for: 48 KiB, or what cudaFuncSetAttribute allowed.
size_t dynamic_shared_limit(const void* function);
// Stores an error for cudaGetLastError and returns it.
cudaError_t remember_error(cudaError_t error);
int current_device();
// Whether kernels may touch this host memory.
bool is_pinned_host(const void* address, size_t bytes);

}  // namespace cuda_emulation
