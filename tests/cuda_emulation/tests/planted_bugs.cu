// Small kernels with one planted bug each, and the same kernels without it:
//   planted_bugs NAME bug | planted_bugs NAME fixed
// planted_bugs.py runs them and knows what the emulation must say.
#include <cuda_runtime.h>

#include <cassert>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "require.h"

namespace planted {

template <bool kBug>
__global__ void missing_barrier(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!kBug) __syncthreads();
  out[threadIdx.x] = values[63 - threadIdx.x];
}

template <bool kBug>
__global__ void write_after_read(float* out) {
  __shared__ float values[64];
  float sum = 0.0f;
  for (int round = 0; round < 2; ++round) {
    values[threadIdx.x] = static_cast<float>(threadIdx.x + round);
    __syncthreads();
    sum += values[63 - threadIdx.x];
    if (!kBug) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool kBug>
__global__ void shuffle_mask(float* out) {
  float value = static_cast<float>(threadIdx.x);
  if (threadIdx.x < 16) value += __shfl_down_sync(kBug ? 0xffffffffu : 0x0000ffffu, value, 8, 16);
  __syncwarp();
  out[threadIdx.x] = __shfl_sync(0xffffffffu, value, 0);
}

template <bool kBug>
__global__ void shuffle_outside(float* out) {
  float value = static_cast<float>(threadIdx.x);
  if (threadIdx.x < 20) value = __shfl_down_sync(0x000fffffu, value, 8, kBug ? 32 : 4);
  out[threadIdx.x] = value;
}

template <bool kBug>
__global__ void tail(float* out, int count) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (kBug ? k <= count : k < count) out[k] = 1.0f;
}

template <bool kBug>
__global__ void stale_shared(float* out) {
  __shared__ float values[64];
  if (threadIdx.x < (kBug ? 63 : 64)) values[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = fmaxf(values[threadIdx.x], 0.0f);  // swallows the NaN of fresh memory
}

template <bool kBug>
__global__ void misaligned(const float* in, float* out) {
  const float4 four = *reinterpret_cast<const float4*>(in + (kBug ? 1 : 4));
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

template <bool kBug>
__global__ void async_wait(const float* in, float* out) {
  __shared__ __align__(16) float values[32];
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(values + threadIdx.x));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(target), "l"(in + threadIdx.x) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (kBug) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  }
  __syncthreads();
  out[threadIdx.x] = values[31 - threadIdx.x];
}

template <bool kBug>
__global__ void accumulator(const float* in, float* out) {
  if (!kBug) out[threadIdx.x] = 0.0f;
  for (int k = 0; k < 2; ++k) out[threadIdx.x] = fmaxf(out[threadIdx.x], in[threadIdx.x]);
}

template <bool kBug>
__global__ void two_writers(float* out) {
  out[kBug ? threadIdx.x / 2 : threadIdx.x] = 1.0f;
}

template <bool kBug>
__global__ void two_blocks(float* out) {
  if (threadIdx.x != 0) return;
  if (kBug) {
    out[0] += 1.0f;
  } else {
    atomicAdd(out, 1.0f);
  }
}

template <bool kBug>
__global__ void shared_histogram(int* out) {
  __shared__ int counts[4];
  if (threadIdx.x < 4) counts[threadIdx.x] = 0;
  __syncthreads();
  if (kBug) {
    counts[threadIdx.x % 4] += 1;
  } else {
    atomicAdd(counts + threadIdx.x % 4, 1);
  }
  __syncthreads();
  if (threadIdx.x < 4) out[threadIdx.x] = counts[threadIdx.x];
}

// Reads what others still add to.
template <bool kBug>
__global__ void early_look(int* out) {
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  if (!kBug) __syncthreads();
  out[threadIdx.x] = count;
}

template <bool kBug>
__global__ void divergent_barrier(float* out) {
  if (!kBug || threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = 1.0f;
}

template <bool kBug>
__global__ void early_return(float* out, int count) {
  if (kBug && static_cast<int>(threadIdx.x) >= count) return;
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < count) out[threadIdx.x] = 1.0f;
}

template <bool kBug>
__global__ void missing_syncwarp(float* out) {
  __shared__ float values[32];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!kBug) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

// Groups of eight lanes synchronise among themselves: no more is ordered, and no less.
template <bool kBug>
__global__ void partial_syncwarp(float* out) {
  __shared__ float values[32];
  const unsigned group = threadIdx.x / 8;
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp(0xffu << 8 * group);
  out[threadIdx.x] = values[kBug ? threadIdx.x ^ 8 : threadIdx.x ^ 7];
}

template <bool kBug>
__global__ void dynamic_shared(float* out) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x + 1];
}

// The last block to finish sums what all blocks wrote. The bug counts a block before all its threads have written.
template <bool kBug>
__global__ void last_block(float* partial, unsigned* counter, float* out) {
  __shared__ bool is_last;
  partial[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
  __threadfence();
  if (!kBug) __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(counter, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!is_last) return;
  float sum = 0.0f;
  for (unsigned k = threadIdx.x; k < gridDim.x * blockDim.x; k += blockDim.x) sum += partial[k];
  out[threadIdx.x] = sum;
}

template <bool kBug>
__global__ void trap(float* out) {
  if (kBug && threadIdx.x == 3) __trap();
  out[threadIdx.x] = 1.0f;
}

template <bool kBug>
__global__ void assertion(float* out) {
  assert(threadIdx.x < (kBug ? 31 : 32));
  out[threadIdx.x] = 1.0f;
}

// 16 bytes too deep into shared memory: inside the window, and outside every variable.
template <bool kBug>
__global__ void shared_overrun(float* out) {
  __shared__ float first[32], second[32];
  first[threadIdx.x + (kBug ? 4 : 0)] = 1.0f;
  second[threadIdx.x] = 2.0f;
  __syncthreads();
  out[threadIdx.x] = first[31 - threadIdx.x] + second[31 - threadIdx.x];
}

// Writes where an asynchronous copy is under way.
template <bool kBug>
__global__ void async_overwrite(const float* in, float* out) {
  __shared__ __align__(16) float values[32];
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(values + threadIdx.x));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(target), "l"(in + threadIdx.x) : "memory");
  if (!kBug) asm volatile("cp.async.wait_all;" ::: "memory");
  values[threadIdx.x] = 3.0f;
  asm volatile("cp.async.wait_all;" ::: "memory");
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void scale(float* values, float factor) {
  values[threadIdx.x] *= factor;
}

__global__ void copy(const float* in, float* out, int offset) {
  out[threadIdx.x] = in[threadIdx.x + offset];
}

}  // namespace planted

namespace {

struct Memory {
  float *in, *out;  // 1024 floats each, `in` set to 1, `out` never written
};

void finish() {
  REQUIRE_CUDA(cudaGetLastError());
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

void host_pointer(const Memory& memory, bool bug) {
  const std::vector<float> host(64, 1.0f);
  planted::copy<<<1, 32>>>(bug ? host.data() : memory.in, memory.out, 0);
}

void use_after_free(const Memory&, bool bug) {
  float* freed;
  REQUIRE_CUDA(cudaMalloc(&freed, 4096));
  REQUIRE_CUDA(cudaMemset(freed, 0, 4096));
  if (bug) REQUIRE_CUDA(cudaFree(freed));
  planted::scale<<<1, 32>>>(freed, 2.0f);
}

void last_block(const Memory& memory, bool bug) {
  unsigned* counter;
  REQUIRE_CUDA(cudaMalloc(&counter, sizeof *counter));
  REQUIRE_CUDA(cudaMemset(counter, 0, sizeof *counter));
  if (bug) {
    planted::last_block<true><<<8, 64>>>(memory.out, counter, memory.out + 512);
  } else {
    planted::last_block<false><<<8, 64>>>(memory.out, counter, memory.out + 512);
  }
}

void host_read(const Memory& memory, bool bug) {
  finish();
  if (bug) std::printf("%f\n", static_cast<double>(memory.in[3]));
}

void long_copy(const Memory&, bool bug) {
  float* small;
  const std::vector<float> host(64, 1.0f);
  REQUIRE_CUDA(cudaMalloc(&small, 64));
  REQUIRE_CUDA(cudaMemcpy(small, host.data(), bug ? 68 : 64, cudaMemcpyHostToDevice));
}

#define PICK(kernel, ...)                 \
  if (name == #kernel) {                  \
    if (bug) {                            \
      planted::kernel<true> __VA_ARGS__;  \
    } else {                              \
      planted::kernel<false> __VA_ARGS__; \
    }                                     \
    return true;                          \
  }

bool run(const std::string& name, bool bug, const Memory& memory) {
  PICK(missing_barrier, <<<1, 64>>>(memory.out))
  PICK(write_after_read, <<<1, 64>>>(memory.out))
  PICK(shuffle_mask, <<<1, 32>>>(memory.out))
  PICK(shuffle_outside, <<<1, 32>>>(memory.out))
  PICK(tail, <<<5, 256>>>(memory.out, 1024))
  PICK(stale_shared, <<<1, 64>>>(memory.out))
  PICK(misaligned, <<<1, 1>>>(memory.in, memory.out))
  PICK(async_wait, <<<1, 32>>>(memory.in, memory.out))
  PICK(accumulator, <<<1, 32>>>(memory.in, memory.out))
  PICK(two_writers, <<<1, 64>>>(memory.out))
  PICK(two_blocks, <<<8, 32>>>(memory.in))
  PICK(shared_histogram, <<<1, 256>>>(reinterpret_cast<int*>(memory.out)))
  PICK(early_look, <<<1, 64>>>(reinterpret_cast<int*>(memory.out)))
  PICK(divergent_barrier, <<<1, 64>>>(memory.out))
  PICK(early_return, <<<1, 64>>>(memory.out, 50))
  PICK(missing_syncwarp, <<<1, 32>>>(memory.out))
  PICK(partial_syncwarp, <<<1, 32>>>(memory.out))
  PICK(trap, <<<1, 32>>>(memory.out))
  PICK(assertion, <<<1, 32>>>(memory.out))
  PICK(shared_overrun, <<<1, 32>>>(memory.out))
  PICK(async_overwrite, <<<1, 32>>>(memory.in, memory.out))
  PICK(dynamic_shared, <<<1, 64, bug ? 256 : 260>>>(memory.out))
  if (name == "host_pointer") return host_pointer(memory, bug), true;
  if (name == "use_after_free") return use_after_free(memory, bug), true;
  if (name == "last_block") return last_block(memory, bug), true;
  if (name == "host_read") return host_read(memory, bug), true;
  if (name == "long_copy") return long_copy(memory, bug), true;
  if (name == "past_the_end") return planted::copy<<<1, 32>>>(memory.in, memory.out, bug ? 1200 : 0), true;
  return false;
}

}  // namespace

int main(int, char** arguments) {
  Memory memory;
  REQUIRE_CUDA(cudaMalloc(&memory.in, 4096));
  REQUIRE_CUDA(cudaMalloc(&memory.out, 4096));
  const std::vector<float> ones(1024, 1.0f);
  REQUIRE_CUDA(cudaMemcpy(memory.in, ones.data(), 4096, cudaMemcpyHostToDevice));
  REQUIRE(run(arguments[1], std::strcmp(arguments[2], "bug") == 0, memory));
  finish();
  std::puts("ok");
}
