// Loops over flat ranges and over rows, four elements a thread. Work is given as body(..., lanes), where lanes loads
// and stores four elements, float or bf16, at once where pointers and extents allow it (which the host decides), else
// those of the four that are there, one by one. Either way an element is in the same place of the same thread, so sums
// do not depend on it.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

namespace itemloom::cuda {

struct Four {
  float at[4];
};

struct AlignedFour {
  __device__ bool holds(int) const { return true; }
  __device__ Four load(const float* from) const {
    const float4 value = *reinterpret_cast<const float4*>(from);
    return {value.x, value.y, value.z, value.w};
  }
  __device__ void store(const Four& value, float* to) const {
    *reinterpret_cast<float4*>(to) = make_float4(value.at[0], value.at[1], value.at[2], value.at[3]);
  }
  __device__ Four load(const Bf16* from) const {
    const uint2 value = *reinterpret_cast<const uint2*>(from);
    return {first_of(value.x), second_of(value.x), first_of(value.y), second_of(value.y)};
  }
  __device__ void store(const Four& value, Bf16* to) const {
    *reinterpret_cast<uint2*>(to) =
        make_uint2(pack_bf16(value.at[0], value.at[1]), pack_bf16(value.at[2], value.at[3]));
  }
};

// The first `count` of four, one by one; loads give zeros for the others.
struct LooseFour {
  int64_t count;

  __device__ bool holds(int i) const { return i < count; }
  template <class T>
  __device__ Four load(const T* from) const {
    Four value;
#pragma unroll
    for (int i = 0; i < 4; ++i) value.at[i] = i < count ? cuda::load(from + i) : 0.0f;
    return value;
  }
  template <class T>
  __device__ void store(const Four& value, T* to) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) cuda::store(value.at[i], to + i);
    }
  }
};

// body(lanes) with the first `count` of four elements, `count` at least 1.
template <bool kAligned, class Body>
__device__ void with_lanes(int64_t count, const Body& body) {
  if (kAligned && count >= 4) {
    body(AlignedFour());
  } else {
    body(LooseFour{count});
  }
}

// The four columns that a thread of a block takes of a row of floats at a time. The block goes over the row from
// first_column() on, 4 * kThreads columns at a time, so that fours are read at once and no warp reads a part of a
// sector (32 bytes), wherever the row begins.
template <int kThreads>
class RowFour {
 public:
  // Of the row's first sector, 0 or less: those before column 0 are not there.
  static __device__ int64_t first_column(const float* row) {
    return -static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) / sizeof(float) % 8);
  }
  __device__ RowFour(int64_t begin, int64_t columns) : first_(begin + 4 * threadIdx.x), columns_(columns) {}

  __device__ int64_t column(int k) const { return first_ + k; }
  __device__ bool holds(int k) const { return 0 <= column(k) && column(k) < columns_; }
  // `absent` stands for columns that are not there.
  __device__ Four load(const float* row, float absent) const {
    if (0 <= first_ && first_ + 4 <= columns_) return AlignedFour().load(row + first_);
    Four values;
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = holds(k) ? row[column(k)] : absent;
    return values;
  }

 private:
  int64_t first_, columns_;
};

inline constexpr int kFoursThreads = 256;

template <bool kAligned, class Body>
__global__ void for_fours(int64_t count, Body body) {
  const int64_t i = (int64_t{blockIdx.x} * kFoursThreads + threadIdx.x) * 4;
  if (i < count) with_lanes<kAligned>(count - i, [&](auto lanes) { body(i, lanes); });
}

template <bool kAligned, class Body>
__global__ void for_fours_of_rows(int64_t rows, int64_t columns, Body body) {
  const int64_t index = int64_t{blockIdx.x} * kFoursThreads + threadIdx.x, row_fours = block_count(columns, 4);
  const int64_t row = index / row_fours, column = index % row_fours * 4;
  if (row < rows) with_lanes<kAligned>(columns - column, [&](auto lanes) { body(row, column, lanes); });
}

// Whether fours can be read and written at once from these pointers on; a null pointer is nobody's.
template <class... Elements>
bool fours_aligned(Elements*... pointers) {
  return (... && (reinterpret_cast<uintptr_t>(pointers) % (4 * sizeof(Elements)) == 0));
}

// body(i, lanes) for i = 0, 4, ... below count.
template <class Body>
void start_fours(Place place, const char* name, int64_t count, bool aligned, const Body& body) {
  start(place, name, aligned ? for_fours<true, Body> : for_fours<false, Body>,
        grid(block_count(block_count(count, 4), kFoursThreads)), kFoursThreads, 0, count, body);
}

// body(row, column, lanes) for every row and column = 0, 4, ... below columns.
template <class Body>
void start_fours_of_rows(CudaStream stream, const char* name, int64_t rows, int64_t columns, bool aligned,
                         const Body& body) {
  start(stream, name, aligned && columns % 4 == 0 ? for_fours_of_rows<true, Body> : for_fours_of_rows<false, Body>,
        grid(block_count(rows * block_count(columns, 4), kFoursThreads)), kFoursThreads, 0, rows, columns, body);
}

}  // namespace itemloom::cuda
