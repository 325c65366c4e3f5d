// What the lanes of a warp and the threads of a block do together, against results worked out lane by lane on the host.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "on_device.h"

namespace warp_test {

constexpr int kModes = 4;  // up, down, bfly, idx

#define SHUFFLE(mode)                                                                                         \
  asm volatile("{ .reg .pred p; shfl.sync." mode ".b32 %0|p, %2, %3, %4, 0xffffffff; selp.u32 %1, 1, 0, p; }" \
               : "=r"(value), "=r"(in_range)                                                                  \
               : "r"(threadIdx.x * 3 + 1), "r"(amount), "r"(limits))

__global__ void shuffles(uint32_t* out, uint32_t amount, uint32_t width) {
  uint32_t value = 0, in_range = 0;
  for (int mode = 0; mode < kModes; ++mode) {
    const uint32_t limits = (32 - width) << 8 | (mode == 0 ? 0 : 31);
    switch (mode) {
      case 0:
        SHUFFLE("up");
        break;
      case 1:
        SHUFFLE("down");
        break;
      case 2:
        SHUFFLE("bfly");
        break;
      default:
        SHUFFLE("idx");
        break;
    }
    out[(mode * 32 + threadIdx.x) * 2] = value;
    out[(mode * 32 + threadIdx.x) * 2 + 1] = in_range;
  }
}

__global__ void votes(uint32_t* out, uint32_t pattern) {
  const bool predicate = pattern >> threadIdx.x & 1;
  uint32_t* own = out + 8 * threadIdx.x;
  own[0] = __ballot_sync(0xffffffffu, predicate);
  own[1] = __any_sync(0xffffffffu, predicate);
  own[2] = __all_sync(0xffffffffu, predicate);
  own[3] = __uni_sync(0xffffffffu, predicate);
  own[4] = __match_any_sync(0xffffffffu, threadIdx.x % 5);
  int same = 0;
  own[5] = __match_all_sync(0xffffffffu, static_cast<unsigned long long>(pattern), &same);
  own[6] = same;
  own[7] = __match_all_sync(0xffffffffu, threadIdx.x / 31, &same) | static_cast<uint32_t>(same);
}

// Each half of the warp reduces by itself.
__global__ void reductions(uint32_t* out, const uint32_t* in) {
  const uint32_t mask = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u, value = in[threadIdx.x];
  uint32_t* own = out + 8 * threadIdx.x;
  own[0] = __reduce_add_sync(mask, value);
  own[1] = __reduce_min_sync(mask, value);
  own[2] = __reduce_max_sync(mask, value);
  own[3] = static_cast<uint32_t>(__reduce_min_sync(mask, static_cast<int>(value)));
  own[4] = static_cast<uint32_t>(__reduce_max_sync(mask, static_cast<int>(value)));
  own[5] = __reduce_and_sync(mask, value);
  own[6] = __reduce_or_sync(mask, value);
  own[7] = __reduce_xor_sync(mask, value);
}

// A warp of the block has 8 lanes only; a full mask names those that are there.
__global__ void partial_warp(uint32_t* out) {
  const uint32_t ballot = __ballot_sync(0xffffffffu, 1);
  __syncwarp();
  out[threadIdx.x] = ballot;
}

__global__ void block_votes(int* out, uint32_t pattern) {
  const int predicate = pattern >> (threadIdx.x / 4) & 1;
  int* own = out + 3 * threadIdx.x;
  own[0] = __syncthreads_count(predicate);
  own[1] = __syncthreads_and(predicate);
  own[2] = __syncthreads_or(predicate);
}

// Two warps produce and go on, two consume: bar.arrive and bar.sync of a named barrier.
__global__ void producers(int* out) {
  __shared__ int box[64];
  if (threadIdx.x < 64) {
    box[threadIdx.x] = static_cast<int>(threadIdx.x) * 7;
    asm volatile("bar.arrive 1, 128;" ::: "memory");
  } else {
    asm volatile("bar.sync 1, 128;" ::: "memory");
    out[threadIdx.x - 64] = box[127 - threadIdx.x];
  }
}

// A thread of the same block is waited for by polling.
__global__ void polling(volatile int* flag, int* out) {
  if (threadIdx.x == 0) {
    while (*flag == 0) __nanosleep(20);
    *out = *flag;
  }
  if (threadIdx.x == 33) *flag = 5;
}

}  // namespace warp_test

namespace {

void require_shuffle(const uint32_t* results, int mode, int lane, int amount, int width) {
  const int first = lane / width * width, last = first + width - 1;
  int from = lane;
  bool in_range = true;
  if (mode == 0) in_range = (from = lane - amount) >= first;
  if (mode == 1) in_range = (from = lane + amount) <= last;
  if (mode == 2) in_range = (from = lane ^ amount) <= last;
  if (mode == 3) from = first + amount % width;
  if (!in_range) from = lane;
  REQUIRE(results[0] == static_cast<uint32_t>(from) * 3 + 1);
  REQUIRE(results[1] == (in_range ? 1u : 0u));
}

void test_shuffles() {
  for (const int width : {32, 16, 8, 4}) {
    for (const int amount : {0, 1, 3, 8, 17, 31}) {
      OnDevice<uint32_t> out(warp_test::kModes * 64);
      warp_test::shuffles<<<1, 32>>>(out.data(), amount, width);
      const std::vector<uint32_t> values = out.values();
      for (int k = 0; k < warp_test::kModes * 32; ++k) {
        require_shuffle(&values[2 * k], k / 32, k % 32, amount, width);
      }
    }
  }
}

void test_votes() {
  for (const uint32_t pattern : {0u, 0xffffffffu, 0x12345678u, 1u}) {
    OnDevice<uint32_t> out(32 * 8);
    warp_test::votes<<<1, 32>>>(out.data(), pattern);
    const std::vector<uint32_t> values = out.values();
    for (uint32_t lane = 0; lane < 32; ++lane) {
      uint32_t same = 0;
      for (uint32_t other = 0; other < 32; ++other) same |= (other % 5 == lane % 5 ? 1u : 0u) << other;
      const bool all = pattern == 0xffffffffu, none = pattern == 0;
      const uint32_t expected[] = {pattern, !none, all, all || none, same, 0xffffffffu, 1, 0};
      REQUIRE(std::equal(expected, expected + 8, &values[8 * lane]));
    }
  }
}

void test_reductions() {
  std::vector<uint32_t> in(32);
  for (uint32_t k = 0; k < 32; ++k) in[k] = (k + 1) * 2654435761u;
  OnDevice<uint32_t> numbers(in), out(32 * 8);
  warp_test::reductions<<<1, 32>>>(out.data(), numbers.data());
  const std::vector<uint32_t> values = out.values();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t first = lane / 16 * 16;
    uint32_t expected[8] = {0, in[first], in[first], in[first], in[first], ~0u, 0, 0};
    for (uint32_t k = first; k < first + 16; ++k) {
      expected[0] += in[k];
      expected[1] = std::min(expected[1], in[k]);
      expected[2] = std::max(expected[2], in[k]);
      if (static_cast<int>(in[k]) < static_cast<int>(expected[3])) expected[3] = in[k];
      if (static_cast<int>(in[k]) > static_cast<int>(expected[4])) expected[4] = in[k];
      expected[5] &= in[k];
      expected[6] |= in[k];
      expected[7] ^= in[k];
    }
    REQUIRE(std::equal(expected, expected + 8, &values[8 * lane]));
  }
}

void test_blocks() {
  OnDevice<uint32_t> ballots(40);
  warp_test::partial_warp<<<1, 40>>>(ballots.data());
  const std::vector<uint32_t> ballot = ballots.values();
  for (int k = 0; k < 40; ++k) REQUIRE(ballot[k] == (k < 32 ? 0xffffffffu : 0xffu));
  for (const uint32_t pattern : {0u, 0xffffffffu, 0x00ff00f1u}) {
    OnDevice<int> out(3 * 128);
    warp_test::block_votes<<<1, 128>>>(out.data(), pattern);
    const std::vector<int> values = out.values();
    const int count = 4 * __builtin_popcount(pattern);
    for (int k = 0; k < 128; ++k) {
      REQUIRE(values[3 * k] == count && (values[3 * k + 1] != 0) == (count == 128) &&
              (values[3 * k + 2] != 0) == (count > 0));
    }
  }
  OnDevice<int> boxes(64);
  warp_test::producers<<<1, 128>>>(boxes.data());
  const std::vector<int> box = boxes.values();
  for (int k = 0; k < 64; ++k) REQUIRE(box[k] == (63 - k) * 7);
  OnDevice<int> flag(1), seen(1);
  warp_test::polling<<<1, 64>>>(flag.data(), seen.data());
  REQUIRE(seen.values()[0] == 5);
}

}  // namespace

int main() {
  test_shuffles();
  test_votes();
  test_reductions();
  test_blocks();
  std::puts("ok");
}
