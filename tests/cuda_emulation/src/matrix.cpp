#include "matrix.h"

#include <cstring>

#include "access.h"
#include "engine.h"
#include "report.h"
#include "shared_memory.h"
#include "warp.h"

namespace cuda_emulation {
namespace {

constexpr uint32_t kAllLanes = 0xffffffffu;

void require_whole_warp(const ThreadContext& thread) {
  const Warp& warp = engine.warps[thread.warp];
  const uint32_t live = warp.exists & ~warp.exited;
  if (live == kAllLanes) return;
  report("warp mask",
         "a matrix instruction needs all 32 lanes, and only those of " + describe_mask(live) + " are there");
}

struct Row {
  unsigned char bytes[16];
};

template <bool kTransposed>
void combine_load(ThreadContext* lanes, uint32_t) {
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    uint32_t* const out = static_cast<uint32_t*>(lanes[lane].output);
    for (uint32_t matrix = 0; matrix < 4; ++matrix) {
      out[matrix] = 0;
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t major = lane / 4, minor = lane % 4 * 2 + half;
        const uint32_t row = kTransposed ? minor : major, column = kTransposed ? major : minor;
        const Row& source = *static_cast<const Row*>(lanes[8 * matrix + row].input);
        out[matrix] |= uint32_t{load<uint16_t>(source.bytes + 2 * column)} << 16 * half;
      }
    }
  }
}

}  // namespace

void load_matrix(ThreadContext& thread, uint32_t (&rows)[4], const unsigned char* row, uint32_t count,
                 bool transposed) {
  require_whole_warp(thread);
  Row own{};
  if (thread.lane < 8 * count) {
    if (!is_shared_address(row)) report("ldmatrix", "the address is no shared memory");
    before_read(thread, row, sizeof own);
    std::memcpy(&own, row, sizeof own);
  }
  const int variant = static_cast<int>(2 * count) + (transposed ? 1 : 0);
  warp_together(thread, WarpKind::kLoadMatrix, variant, kAllLanes, &own, rows,
                transposed ? &combine_load<true> : &combine_load<false>);
}

void multiply_together(ThreadContext& thread, int variant, const MmaFragments& fragments,
                       void (*combine)(ThreadContext* lanes, uint32_t arrived)) {
  require_whole_warp(thread);
  warp_together(thread, WarpKind::kMultiply, variant, kAllLanes, &fragments, nullptr, combine);
}

}  // namespace cuda_emulation
