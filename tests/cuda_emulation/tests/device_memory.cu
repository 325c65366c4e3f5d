// Loads and stores of all widths, atomics, constants, local memory, asynchronous copies.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "on_device.h"

namespace memory_test {

__constant__ float weights[4] = {0.5f, 1.5f, -2.0f, 3.0f};
__constant__ int chosen;
__device__ int counter = 7;

// Every thread copies 32 bytes; the way differs.
__global__ void copies(const unsigned char* in, unsigned char* out) {
  const unsigned char* from = in + 32 * threadIdx.x;
  unsigned char* to = out + 32 * threadIdx.x;
  switch (threadIdx.x % 8) {
    case 0:
      for (int k = 0; k < 32; ++k) to[k] = from[k];
      break;
    case 1:
      for (int k = 0; k < 16; ++k) reinterpret_cast<short*>(to)[k] = reinterpret_cast<const short*>(from)[k];
      break;
    case 2:
      for (int k = 0; k < 4; ++k) reinterpret_cast<double*>(to)[k] = reinterpret_cast<const double*>(from)[k];
      break;
    case 3:
      for (int k = 0; k < 2; ++k) reinterpret_cast<float4*>(to)[k] = reinterpret_cast<const float4*>(from)[k];
      break;
    case 4:
      for (int k = 0; k < 4; ++k) reinterpret_cast<int2*>(to)[k] = __ldg(reinterpret_cast<const int2*>(from) + k);
      break;
    case 5:
      for (int k = 0; k < 16; ++k) {
        reinterpret_cast<uchar2*>(to)[k] = reinterpret_cast<const uchar2*>(from)[k];
      }
      break;
    case 6:
      for (int k = 0; k < 2; ++k) {
        __stcs(reinterpret_cast<uint4*>(to) + k, __ldcs(reinterpret_cast<const uint4*>(from) + k));
      }
      break;
    default:
      for (int k = 0; k < 4; ++k) {
        reinterpret_cast<volatile unsigned long long*>(to)[k] =
            reinterpret_cast<const volatile unsigned long long*>(from)[k];
      }
  }
}

// Signed bytes and shorts are extended; an array that is indexed dynamically lives in local memory.
__global__ void extensions(const signed char* bytes, const short* shorts, long long* out) {
  long long local[16];
  for (int k = 0; k < 16; ++k) local[k] = bytes[k] * 1000ll + shorts[k];
  out[threadIdx.x] = local[(threadIdx.x * 5 + static_cast<unsigned>(chosen)) % 16] +
                     static_cast<long long>(weights[threadIdx.x % 4] * 2.0f) + counter;
}

struct Sums {
  int add, minimum, maximum, bits_and, bits_or, bits_xor, exchanged, swapped;
  unsigned wrapped_up, wrapped_down, unsigned_max;
  unsigned long long wide_add, wide_max;
  float single;
  double twice;
  __half half_sum;
  __nv_bfloat16 bf16_sum;
  __half2 half_pair;
  __nv_bfloat162 bf16_pair;
};

template <class Numbers>
__device__ void count_into(Numbers* sums) {
  const int k = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&sums->add, k);
  atomicMin(&sums->minimum, -k);
  atomicMax(&sums->maximum, k);
  atomicAnd(&sums->bits_and, ~(1 << k % 31));
  atomicOr(&sums->bits_or, 1 << k % 20);
  atomicXor(&sums->bits_xor, k);
  atomicAdd(&sums->swapped, atomicExch(&sums->exchanged, k) >= -1);
  atomicInc(&sums->wrapped_up, 9u);
  atomicDec(&sums->wrapped_down, 9u);
  atomicMax(&sums->unsigned_max, static_cast<unsigned>(-k));
  atomicAdd(&sums->wide_add, 1ull << 33);
  atomicMax(&sums->wide_max, static_cast<unsigned long long>(k) << 34);
  atomicAdd(&sums->single, 0.5f);
  atomicAdd(&sums->twice, 0.25);
  atomicAdd(&sums->half_sum, __float2half(1.0f));
  atomicAdd(&sums->bf16_sum, __float2bfloat16(1.0f));
  atomicAdd(&sums->half_pair, __floats2half2_rn(1.0f, 2.0f));
  atomicAdd(&sums->bf16_pair, __floats2bfloat162_rn(1.0f, 0.5f));
}

__global__ void count_global(Sums* sums) {
  count_into(sums);
}

__global__ void count_shared(Sums* out, const Sums* start) {
  __shared__ Sums sums;
  if (threadIdx.x == 0) sums = *start;
  __syncthreads();
  count_into(&sums);
  __syncthreads();
  if (threadIdx.x == 0) *out = sums;
}

// A lock of compare-and-swap guards a plain counter in shared memory.
__global__ void locked(int* out) {
  __shared__ int lock, value;
  if (threadIdx.x == 0) lock = value = 0;
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    while (atomicCAS(&lock, 0, 1) != 0) {
    }
    __threadfence_block();
    ++value;
    __threadfence_block();
    atomicExch(&lock, 0);
  }
  __syncthreads();
  if (threadIdx.x == 0) *out = value;
}

// Copies of 4, 8 and 16 bytes, some of them with a zero-filled tail.
__global__ void async_copies(const unsigned char* in, unsigned char* out) {
  extern __shared__ __align__(16) unsigned char staged[];
  const unsigned base = static_cast<unsigned>(__cvta_generic_to_shared(staged)) + 32 * threadIdx.x;
  const unsigned char* from = in + 32 * threadIdx.x;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(base), "l"(from) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(base + 4), "l"(from + 4), "r"(1) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(base + 8), "l"(from + 8) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(base + 16), "l"(from + 16),
               "r"(threadIdx.x % 2 ? 16 : 0)
               : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  for (int k = 0; k < 32; ++k) out[32 * threadIdx.x + k] = staged[32 * threadIdx.x + k];
}

}  // namespace memory_test

namespace {

std::vector<unsigned char> bytes(size_t count) {
  std::vector<unsigned char> result(count);
  for (size_t k = 0; k < count; ++k) result[k] = static_cast<unsigned char>(k * 37 + k / 256 + 1);
  return result;
}

void test_copies() {
  const std::vector<unsigned char> in = bytes(64 * 32);
  OnDevice<unsigned char> from(in), to(in.size()), staged(in.size());
  memory_test::copies<<<1, 64>>>(from.data(), to.data());
  REQUIRE(to.values() == in);
  memory_test::async_copies<<<1, 64, 64 * 32>>>(from.data(), staged.data());
  const std::vector<unsigned char> values = staged.values();
  for (size_t k = 0; k < in.size(); ++k) {
    const size_t at = k % 32, thread = k / 32;
    const bool is_filled = (at >= 5 && at < 8) || (at >= 16 && thread % 2 == 0);
    REQUIRE(values[k] == (is_filled ? 0 : in[k]));
  }
}

void test_spaces() {
  std::vector<signed char> small(16);
  std::vector<short> medium(16);
  for (int k = 0; k < 16; ++k)
    small[k] = static_cast<signed char>(k * 17 - 100), medium[k] = static_cast<short>(-k * 999);
  const int chosen = 3, counter = 11;
  const float weights[] = {0.5f, 1.5f, -2.0f, 3.0f};
  OnDevice<signed char> small_in(small);
  OnDevice<short> medium_in(medium);
  OnDevice<long long> out(32);
  REQUIRE_CUDA(cudaMemcpyToSymbol(memory_test::chosen, &chosen, sizeof chosen));
  REQUIRE_CUDA(cudaMemcpyToSymbol(memory_test::counter, &counter, sizeof counter));
  memory_test::extensions<<<1, 32>>>(small_in.data(), medium_in.data(), out.data());
  const std::vector<long long> values = out.values();
  for (int k = 0; k < 32; ++k) {
    const int at = (k * 5 + chosen) % 16;
    REQUIRE(values[k] == small[at] * 1000ll + medium[at] + static_cast<long long>(weights[k % 4] * 2) + counter);
  }
}

void require_sums(const memory_test::Sums& sums, int threads) {
  int bits_and = -1, bits_or = 0, bits_xor = 0;
  for (int k = 0; k < threads; ++k) {
    bits_and &= ~(1 << k % 31);
    bits_or |= 1 << k % 20;
    bits_xor ^= k;
  }
  REQUIRE(sums.add == threads * (threads - 1) / 2 && sums.minimum == 1 - threads && sums.maximum == threads - 1);
  REQUIRE(sums.bits_and == bits_and && sums.bits_or == bits_or && sums.bits_xor == bits_xor);
  REQUIRE(sums.exchanged >= 0 && sums.exchanged < threads && sums.swapped == threads);
  REQUIRE(sums.wrapped_up == static_cast<unsigned>(threads % 10));
  REQUIRE(sums.wrapped_down == static_cast<unsigned>((10 - threads % 10) % 10));
  REQUIRE(sums.unsigned_max == 0xffffffffu);
  REQUIRE(sums.wide_add == static_cast<unsigned long long>(threads) << 33);
  REQUIRE(sums.wide_max == static_cast<unsigned long long>(threads - 1) << 34);
  REQUIRE(sums.single == 0.5f * threads && sums.twice == 0.25 * threads);
  REQUIRE(__half2float(sums.half_sum) == threads && __bfloat162float(sums.bf16_sum) == threads);
  REQUIRE(__low2float(sums.half_pair) == threads && __high2float(sums.half_pair) == 2 * threads);
  REQUIRE(__low2float(sums.bf16_pair) == threads && __high2float(sums.bf16_pair) == 0.5f * threads);
}

void test_atomics() {
  memory_test::Sums start;
  std::memset(static_cast<void*>(&start), 0, sizeof start);
  start.bits_and = -1;
  start.exchanged = -1;
  OnDevice<memory_test::Sums> first({start}), global({start}), shared({start});
  memory_test::count_global<<<4, 32>>>(global.data());
  require_sums(global.values()[0], 128);
  memory_test::count_shared<<<1, 96>>>(shared.data(), first.data());
  require_sums(shared.values()[0], 96);
  OnDevice<int> out(1);
  memory_test::locked<<<1, 256>>>(out.data());
  REQUIRE(out.values()[0] == 8);
}

}  // namespace

int main() {
  test_copies();
  test_spaces();
  test_atomics();
  std::puts("ok");
}
