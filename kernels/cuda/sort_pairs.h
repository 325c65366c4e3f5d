// A stable sort of (key, value) pairs by key.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/device.h"

namespace itemloom::cuda {

// `count` pairs, of whose keys the lowest `bits` are looked at.
struct SortPairs {
  int64_t count;
  int bits;

  // Working memory that run() needs.
  int64_t working_bytes() const;
  // The input is not kept.
  void run(CudaStream stream, std::byte* working_memory, uint32_t* keys, int32_t* values, uint32_t* sorted_keys,
           int32_t* sorted_values) const;
};

}  // namespace itemloom::cuda
