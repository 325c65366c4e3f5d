// CUB's device-wide sort and scan run unmodified: they use nearly every warp instruction, shared and global atomics,
// and blocks that wait for earlier blocks (decoupled look-back).
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <numeric>
#include <vector>

#include "on_device.h"

namespace {

uint32_t hashed(uint32_t k) {
  k *= 2654435761u;
  return k ^ k >> 15;
}

void sort_pairs(int count) {
  std::vector<uint32_t> keys(count);
  std::vector<int> values(count), order(count);
  for (int k = 0; k < count; ++k) keys[k] = hashed(k) % (count / 2 + 1), values[k] = k;
  OnDevice<uint32_t> keys_in(keys), keys_out(keys);
  OnDevice<int> values_in(values), values_out(values);
  size_t bytes = 0;
  const auto sort = [&](void* memory) {
    REQUIRE_CUDA(cub::DeviceRadixSort::SortPairs(memory, bytes, keys_in.data(), keys_out.data(), values_in.data(),
                                                 values_out.data(), count));
  };
  sort(nullptr);
  OnDevice<unsigned char> memory((std::vector<unsigned char>(bytes)));
  sort(memory.data());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return keys[a] < keys[b]; });
  REQUIRE(values_out.values() == order);
  std::sort(keys.begin(), keys.end());
  REQUIRE(keys_out.values() == keys);
}

void scan(int count) {
  std::vector<int> values(count), expected(count);
  for (int k = 0; k < count; ++k) values[k] = static_cast<int>(hashed(k) % 100);
  std::exclusive_scan(values.begin(), values.end(), expected.begin(), 0);
  OnDevice<int> in(values), out(values);
  size_t bytes = 0;
  REQUIRE_CUDA(cub::DeviceScan::ExclusiveSum(nullptr, bytes, in.data(), out.data(), count));
  OnDevice<unsigned char> memory((std::vector<unsigned char>(bytes)));
  REQUIRE_CUDA(cub::DeviceScan::ExclusiveSum(memory.data(), bytes, in.data(), out.data(), count));
  REQUIRE(out.values() == expected);
}

}  // namespace

int main() {
  for (const int count : {1, 33, 1000, 20000}) sort_pairs(count);
  for (const int count : {1, 31, 5000, 60000}) scan(count);
  std::puts("ok");
}
