// What a program asked of the emulated devices so far, for tests such as "a step never waits for the device" or "the
// second step allocates nothing". Tests include this header; the program under test does not.
#pragma once

#include <cstdint>

namespace cuda_emulation {

// Calls that may make the host wait for a device: cudaStreamSynchronize, cudaDeviceSynchronize, cudaEventSynchronize,
// cudaMemcpy, cudaMemcpy2D, asynchronous copies from or to pageable memory, cudaMalloc, cudaFree, and the allocation
// and release of pinned memory.
int64_t host_synchronisations();

// Of these, cudaEventSynchronize for an event behind which the host has put more work into the stream: the device does
// that while the host waits and after. Any other wait lets a device run out of work.
int64_t waits_with_work_behind();

// Calls of cudaEventQuery that said "not ready" of an event behind which there is nothing in its stream. A host that
// asks until the event is reached lets the device run out of work, too.
int64_t queries_without_work_behind();

// Calls of cudaMalloc and cudaMallocAsync that gave memory.
int64_t device_allocations();

// Kernels launched, by the host or by the launch of a graph. What cuBLASLt and NCCL would launch is not among them.
int64_t kernel_launches();

}  // namespace cuda_emulation
