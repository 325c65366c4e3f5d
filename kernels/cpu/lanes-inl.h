// Loops over rows and flat ranges, compiled once per instruction set (include it as core/simd-inl.h is included).
#if defined(ITEMLOOM_KERNELS_CPU_LANES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_KERNELS_CPU_LANES_INL_H
#undef ITEMLOOM_KERNELS_CPU_LANES_INL_H
#else
#define ITEMLOOM_KERNELS_CPU_LANES_INL_H
#endif

#include <algorithm>
#include <cstdint>

#include "core/device.h"
#include "core/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using FloatVector = hn::Vec<Floats>;
inline constexpr int64_t kFloatLanes = hn::MaxLanes(Floats());

// A flat range is worked on in tasks of this many elements, rows in tasks of about as many. 64 KB: long enough to hide
// the handing out, short enough that two threads end together.
inline constexpr int64_t kFlatBlock = 16384;
inline int64_t rows_per_task(int64_t columns) {
  return std::max<int64_t>(kFlatBlock / std::max<int64_t>(columns, 1) / 4 * 4, 4);
}

// Access to a whole vector, and to the first `count` lanes of one (loads give zeros beyond them).
struct AllLanes {
  HWY_INLINE FloatVector load(const float* from) const { return hn::LoadU(Floats(), from); }
  HWY_INLINE void store(FloatVector value, float* to) const { hn::StoreU(value, Floats(), to); }
  HWY_INLINE FloatVector zero_others(FloatVector value) const { return value; }
};
struct FirstLanes {
  explicit FirstLanes(int64_t count) : mask(hn::FirstN(Floats(), static_cast<size_t>(count))) {}
  HWY_INLINE FloatVector load(const float* from) const { return hn::MaskedLoad(mask, Floats(), from); }
  HWY_INLINE void store(FloatVector value, float* to) const { hn::BlendedStore(value, mask, Floats(), to); }
  HWY_INLINE FloatVector zero_others(FloatVector value) const { return hn::IfThenElseZero(mask, value); }
  hn::Mask<Floats> mask;
};

// body(i, lanes) for every vector of [begin, end); lanes is FirstLanes for the part of a vector at the end.
template <class Body>
HWY_INLINE void for_lanes(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + kFloatLanes <= end; i += kFloatLanes) body(i, AllLanes());
  if (i < end) body(i, FirstLanes(end - i));
}

// body(begin, end) in parallel for blocks of `size` that cover [0, total).
template <class Body>
HWY_INLINE void parallel_blocks(int64_t total, int64_t size, const Body& body) {
  parallel_for(block_count(total, size), [&](int64_t block) {
    const int64_t begin = block * size;
    body(begin, std::min(begin + size, total));
  });
}

// body(i, lanes) in parallel for every vector of a flat range.
template <class Body>
HWY_INLINE void parallel_lanes(int64_t total, const Body& body) {
  parallel_blocks(total, kFlatBlock, [&](int64_t begin, int64_t end) HWY_ATTR { for_lanes(begin, end, body); });
}

// Asks for memory in order, for a loop that is going to read several rows of it side by side: without this the
// processor's own prefetching loses the thread.
HWY_INLINE void prefetch(const float* from, int64_t count) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(from + i);
}

// Column sums go through one partial row for each of these many rows, so that their order never depends on threads.
inline constexpr int64_t kSumRows = 128;

// Memory for them, as much as the kernel says that it takes (kernels/scratch.h).
template <class Arguments>
float* take_partials(CpuStream stream, const Arguments& args) {
  return reinterpret_cast<float*>(stream.scratch->take<std::byte>(scratch_bytes(stream, args)));
}

// y[c] += the sum of partials[block * stride + c] over the blocks in order.
inline void add_partials(const float* partials, int64_t blocks, int64_t stride, float* y, int64_t columns) {
  parallel_blocks(columns, 256, [&](int64_t begin, int64_t end) HWY_ATTR {
    for_lanes(begin, end, [&](int64_t c, auto lanes) HWY_ATTR {
      FloatVector sum = hn::Zero(Floats());
      for (int64_t block = 0; block < blocks; ++block) sum = hn::Add(sum, lanes.load(partials + block * stride + c));
      lanes.store(hn::Add(lanes.load(y + c), sum), y + c);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif
