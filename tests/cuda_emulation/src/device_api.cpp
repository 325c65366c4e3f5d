// What the emulated devices are. They look like an A100 to a program: compute capability 8.0, the oldest that the
// kernels are compiled for.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "internal.h"

namespace cuda_emulation {
namespace {

thread_local int device_of_this_thread = 0;

constexpr int kMajor = 8, kMinor = 0;
constexpr int kMultiprocessors = 108;
constexpr int kWarpSize = 32;
constexpr int kThreadsPerBlock = 1024, kThreadsPerMultiprocessor = 2048, kBlocksPerMultiprocessor = 32;
constexpr int kBlockX = 1024, kBlockY = 1024, kBlockZ = 64;
constexpr int kGridX = 0x7FFFFFFF, kGridY = 65535, kGridZ = 65535;
constexpr int kRegisters = 65536;
constexpr int kSharedPerBlock = 48 << 10, kSharedPerBlockOptIn = 163 << 10, kSharedPerMultiprocessor = 164 << 10;
constexpr int kSharedReserved = 1 << 10;
constexpr int kConstantBytes = 64 << 10;
constexpr int kL2Bytes = 40 << 20;
constexpr int kMemoryBusBits = 5120, kMemoryClockKilohertz = 1215000, kClockKilohertz = 1410000;
constexpr int kCopyEngines = 3;
constexpr int kFirstBus = 1;

const std::map<cudaDeviceAttr, int>& attributes() {
  static const auto& values = *new std::map<cudaDeviceAttr, int>{
      {cudaDevAttrComputeCapabilityMajor, kMajor},
      {cudaDevAttrComputeCapabilityMinor, kMinor},
      {cudaDevAttrMultiProcessorCount, kMultiprocessors},
      {cudaDevAttrWarpSize, kWarpSize},
      {cudaDevAttrMaxThreadsPerBlock, kThreadsPerBlock},
      {cudaDevAttrMaxThreadsPerMultiProcessor, kThreadsPerMultiprocessor},
      {cudaDevAttrMaxBlocksPerMultiprocessor, kBlocksPerMultiprocessor},
      {cudaDevAttrMaxBlockDimX, kBlockX},
      {cudaDevAttrMaxBlockDimY, kBlockY},
      {cudaDevAttrMaxBlockDimZ, kBlockZ},
      {cudaDevAttrMaxGridDimX, kGridX},
      {cudaDevAttrMaxGridDimY, kGridY},
      {cudaDevAttrMaxGridDimZ, kGridZ},
      {cudaDevAttrMaxRegistersPerBlock, kRegisters},
      {cudaDevAttrMaxRegistersPerMultiprocessor, kRegisters},
      {cudaDevAttrMaxSharedMemoryPerBlock, kSharedPerBlock},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, kSharedPerBlockOptIn},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, kSharedPerMultiprocessor},
      {cudaDevAttrReservedSharedMemoryPerBlock, kSharedReserved},
      {cudaDevAttrTotalConstantMemory, kConstantBytes},
      {cudaDevAttrL2CacheSize, kL2Bytes},
      {cudaDevAttrGlobalMemoryBusWidth, kMemoryBusBits},
      {cudaDevAttrMemoryClockRate, kMemoryClockKilohertz},
      {cudaDevAttrClockRate, kClockKilohertz},
      {cudaDevAttrAsyncEngineCount, kCopyEngines},
      {cudaDevAttrConcurrentKernels, 1},
      {cudaDevAttrUnifiedAddressing, 1},
      {cudaDevAttrCanMapHostMemory, 1},
      {cudaDevAttrMemoryPoolsSupported, 1},
      {cudaDevAttrIntegrated, 0},
      {cudaDevAttrManagedMemory, 0},
      {cudaDevAttrCooperativeLaunch, 0},
      {cudaDevAttrClusterLaunch, 0},
      {cudaDevAttrPageableMemoryAccess, 0},
      {cudaDevAttrPciDeviceId, 0},
      {cudaDevAttrPciDomainId, 0},
  };
  return values;
}

bool is_device(int device) {
  return device >= 0 && device < settings().devices;
}

}  // namespace

int current_device() {
  return device_of_this_thread;
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  if (!count) return remember_error(cudaErrorInvalidValue);
  *count = settings().devices;
  return *count > 0 ? cudaSuccess : remember_error(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  if (!device) return remember_error(cudaErrorInvalidValue);
  if (settings().devices == 0) return remember_error(cudaErrorNoDevice);
  *device = current_device();
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (settings().devices == 0) return remember_error(cudaErrorNoDevice);
  if (!is_device(device)) return remember_error(cudaErrorInvalidDevice);
  device_of_this_thread = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!value) return remember_error(cudaErrorInvalidValue);
  if (!is_device(device)) return remember_error(cudaErrorInvalidDevice);
  if (attribute == cudaDevAttrPciBusId) {
    *value = kFirstBus + device;
    return cudaSuccess;
  }
  const auto entry = attributes().find(attribute);
  if (entry == attributes().end()) {
    report("not emulated", "device attribute " + std::to_string(static_cast<int>(attribute)));
  }
  *value = entry->second;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!properties) return remember_error(cudaErrorInvalidValue);
  if (!is_device(device)) return remember_error(cudaErrorInvalidDevice);
  cudaDeviceProp& p = *properties;
  std::memset(&p, 0, sizeof p);
  std::snprintf(p.name, sizeof p.name, "CUDA emulation on the CPU");
  std::memset(p.uuid.bytes, kFirstBus + device, sizeof p.uuid.bytes);
  p.totalGlobalMem = settings().device_bytes;
  p.sharedMemPerBlock = kSharedPerBlock;
  p.sharedMemPerBlockOptin = kSharedPerBlockOptIn;
  p.sharedMemPerMultiprocessor = kSharedPerMultiprocessor;
  p.reservedSharedMemPerBlock = kSharedReserved;
  p.regsPerBlock = kRegisters;
  p.regsPerMultiprocessor = kRegisters;
  p.warpSize = kWarpSize;
  p.memPitch = 0x7FFFFFFF;
  p.maxThreadsPerBlock = kThreadsPerBlock;
  p.maxThreadsPerMultiProcessor = kThreadsPerMultiprocessor;
  p.maxBlocksPerMultiProcessor = kBlocksPerMultiprocessor;
  const int block[] = {kBlockX, kBlockY, kBlockZ}, grid[] = {kGridX, kGridY, kGridZ};
  std::memcpy(p.maxThreadsDim, block, sizeof block);
  std::memcpy(p.maxGridSize, grid, sizeof grid);
  p.totalConstMem = kConstantBytes;
  p.major = kMajor;
  p.minor = kMinor;
  p.multiProcessorCount = kMultiprocessors;
  p.canMapHostMemory = 1;
  p.concurrentKernels = 1;
  p.pciBusID = kFirstBus + device;
  p.asyncEngineCount = kCopyEngines;
  p.unifiedAddressing = 1;
  p.memoryBusWidth = kMemoryBusBits;
  p.l2CacheSize = kL2Bytes;
  p.globalL1CacheSupported = 1;
  p.localL1CacheSupported = 1;
  p.memoryPoolsSupported = 1;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (!version) return remember_error(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  if (!version) return remember_error(cudaErrorInvalidValue);
  *version = CUDART_VERSION;
  return cudaSuccess;
}

}  // extern "C"
