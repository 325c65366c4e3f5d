// What a program asked of the emulated devices so far, for tests such as "a step never waits for the device" or "the
// second step allocates nothing". Tests include this header; the program under test does not.
#pragma once

#include <cstdint>

namespace cuda_emulation {

// Calls that may make the host wait for a device: cudaStreamSynchronize, cudaDeviceSynchronize, cudaEventSynchronize,
// cudaMemcpy, cudaMemcpy2D, asynchronous copies from or to pageable memory, cudaMalloc, cudaFree, and the allocation,
// release, registration and unregistration of pinned memory.
int64_t host_synchronisations();

// Calls of cudaMalloc and cudaMallocAsync that gave memory.
int64_t device_allocations();

// Kernels launched, by the host or by the launch of a graph. What cuBLAS and NCCL would launch is not among them.
int64_t kernel_launches();

}  // namespace cuda_emulation
