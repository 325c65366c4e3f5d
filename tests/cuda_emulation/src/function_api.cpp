// The run-time API of kernels as such: what they need, what they are allowed, how many of their blocks fit.
#include <cuda_occupancy.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "internal.h"

namespace cuda_emulation {
namespace {

constexpr size_t kSharedWithoutAsking = 48 << 10;

// PTX does not say how many registers a kernel will have; ptxas, which the emulation does not run, decides. Launch
// bounds limit them, and most kernels stay below this.
constexpr int kAssumedRegisters = 64;

struct Limits {
  std::mutex mutex;
  std::map<const void*, size_t> dynamic_shared;
};

Limits& limits() {
  static Limits& all = *new Limits;
  return all;
}

size_t largest_shared() {
  int bytes = 0;
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  return static_cast<size_t>(bytes);
}

int assumed_registers(const KernelFacts& kernel) {
  constexpr int kRegisters = 65536;
  return std::min(kAssumedRegisters, kRegisters / kernel.max_threads);
}

cudaOccFuncAttributes occupancy_attributes(const void* function, const KernelFacts& kernel) {
  cudaOccFuncAttributes attributes{};
  attributes.maxThreadsPerBlock = kernel.max_threads;
  attributes.numRegs = assumed_registers(kernel);
  attributes.sharedSizeBytes = kernel.static_shared_bytes;
  attributes.partitionedGCConfig = PARTITIONED_GC_OFF;
  attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  attributes.maxDynamicSharedSizeBytes = dynamic_shared_limit(function);
  attributes.numBlockBarriers = 1;
  return attributes;
}

}  // namespace

size_t dynamic_shared_limit(const void* function) {
  const std::lock_guard lock(limits().mutex);
  const auto entry = limits().dynamic_shared.find(function);
  return entry == limits().dynamic_shared.end() ? kSharedWithoutAsking : entry->second;
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const KernelFacts* kernel = kernel_facts(function);
  if (!kernel) return remember_error(cudaErrorInvalidDeviceFunction);
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize: {
      if (value < 0 || static_cast<size_t>(value) + kernel->static_shared_bytes > largest_shared()) {
        return remember_error(cudaErrorInvalidValue);
      }
      const std::lock_guard lock(limits().mutex);
      limits().dynamic_shared[function] = static_cast<size_t>(value);
      return cudaSuccess;
    }
    default:
      report("not emulated", "kernel attribute " + std::to_string(static_cast<int>(attribute)));
  }
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const KernelFacts* kernel = kernel_facts(function);
  if (!kernel) return remember_error(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->sharedSizeBytes = kernel->static_shared_bytes;
  attributes->maxThreadsPerBlock = kernel->max_threads;
  attributes->numRegs = assumed_registers(*kernel);
  attributes->ptxVersion = 80;
  attributes->binaryVersion = 80;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(dynamic_shared_limit(function));
  attributes->preferredShmemCarveout = -1;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int block_size,
                                                                   size_t dynamic_shared, unsigned flags) {
  const KernelFacts* kernel = kernel_facts(function);
  if (!kernel) return remember_error(cudaErrorInvalidDeviceFunction);
  if (!blocks || block_size <= 0 || flags > cudaOccupancyDisableCachingOverride) {
    return remember_error(cudaErrorInvalidValue);
  }
  cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, 0);
  const cudaOccDeviceProp device(properties);
  const cudaOccFuncAttributes attributes = occupancy_attributes(function, *kernel);
  const cudaOccDeviceState state;
  cudaOccResult result{};
  // A block that does not fit is no error here: none of its kind can be active.
  const cudaOccError status =
      cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &attributes, &state, block_size, dynamic_shared);
  *blocks = status == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : 0;
  return cudaSuccess;
}

}  // extern "C"
