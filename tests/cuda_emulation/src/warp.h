// What the lanes of a warp do together. Each call names the lanes by a mask; lanes wait for each other, and the last
// one to arrive computes for all.
#pragma once

#include <cstdint>

#include "floating.h"
#include "thread.h"

namespace cuda_emulation {

enum class ShuffleMode { kUp, kDown, kButterfly, kIndex };

struct ShuffleResult {
  uint32_t value;
  bool in_range;  // the predicate of shfl.sync
};

ShuffleResult shuffle(ThreadContext& thread, ShuffleMode mode, uint32_t mask, uint32_t value, uint32_t lane,
                      uint32_t limits);
void warp_barrier(ThreadContext& thread, uint32_t mask);
uint32_t vote_ballot(ThreadContext& thread, uint32_t mask, bool predicate);
bool vote_all(ThreadContext& thread, uint32_t mask, bool predicate);
bool vote_any(ThreadContext& thread, uint32_t mask, bool predicate);
bool vote_uni(ThreadContext& thread, uint32_t mask, bool predicate);
uint32_t match_any(ThreadContext& thread, uint32_t mask, uint64_t value);
uint32_t match_all(ThreadContext& thread, uint32_t mask, uint64_t value);  // 0 when they differ
// The lane that elect.sync chooses: the language lets it be any, so it is chosen at random.
uint32_t elect_lane(ThreadContext& thread, uint32_t mask);
// Programs may not rely on which lanes are active together: this names the calling lane only.
inline uint32_t active_mask(const ThreadContext& thread) {
  return 1u << thread.lane;
}

template <class T>
T warp_reduce_add(ThreadContext& thread, uint32_t mask, T value);
template <class T>
T warp_reduce_min(ThreadContext& thread, uint32_t mask, T value);
template <class T>
T warp_reduce_max(ThreadContext& thread, uint32_t mask, T value);
template <class T>
T warp_reduce_and(ThreadContext& thread, uint32_t mask, T value);
template <class T>
T warp_reduce_or(ThreadContext& thread, uint32_t mask, T value);
template <class T>
T warp_reduce_xor(ThreadContext& thread, uint32_t mask, T value);

// The lane exits: operations that wait for it go on without it.
void leave_warp(ThreadContext& thread);

// The kinds of operation. Lanes meet by kind and mask, not by instruction: nvcc may copy an instruction into two paths.
enum class WarpKind { kBarrier, kShuffle, kVote, kMatch, kReduce, kElect, kLoadMatrix, kMultiply };

// Computes for all lanes of `arrived`; lanes[k] holds what lane k deposited in `input` and wants in `output`.
using Combine = void (*)(ThreadContext* lanes, uint32_t arrived);

void warp_together(ThreadContext& thread, WarpKind kind, int variant, uint32_t mask, const void* input, void* output,
                   Combine combine);

}  // namespace cuda_emulation
