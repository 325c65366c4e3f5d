// CUB's radix sort. It has a file of its own because it is not ours to tune: for compute capability 10.0 the compiler
// spills four bytes of one of its kernels, which is an error in ours.
#include "kernels/cuda/sort_pairs.h"

// CUB else puts the list of architectures into its kernels' names, which then differ between an object for several and
// the PTX for one that the emulation executes.
#define CUB_WRAPPED_NAMESPACE itemloom_sort

#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/launch.cuh"

namespace itemloom::cuda {

int64_t SortPairs::working_bytes() const {
  size_t bytes = 0;
  cuda_check(itemloom_sort::cub::DeviceRadixSort::SortPairs(
                 nullptr, bytes, static_cast<uint32_t*>(nullptr), static_cast<uint32_t*>(nullptr),
                 static_cast<int32_t*>(nullptr), static_cast<int32_t*>(nullptr), count, 0, bits),
             "sizing a sort");
  return static_cast<int64_t>(bytes);
}

void SortPairs::run(CudaStream stream, std::byte* working_memory, uint32_t* keys, int32_t* values,
                    uint32_t* sorted_keys, int32_t* sorted_values) const {
  size_t bytes = static_cast<size_t>(working_bytes());
  cuda_check(itemloom_sort::cub::DeviceRadixSort::SortPairs(working_memory, bytes, keys, sorted_keys, values,
                                                            sorted_values, count, 0, bits, stream.context->stream()),
             "starting a sort");
  stream.context->after_launch("radix sort");
}

}  // namespace itemloom::cuda
