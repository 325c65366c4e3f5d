#include "warp.h"

#include <bit>

#include "check.h"
#include "engine.h"
#include "report.h"

namespace cuda_emulation {
namespace {

constexpr int kVariants = 16;

template <class T>
const T& input_of(const ThreadContext& lane) {
  return *static_cast<const T*>(lane.input);
}

template <class T>
void give(ThreadContext& lane, const T& value) {
  *static_cast<T*>(lane.output) = value;
}

template <class Visit>
void for_each_lane(uint32_t mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(static_cast<uint32_t>(std::countr_zero(mask)));
}

uint32_t live_lanes(const Warp& warp) {
  return warp.exists & ~warp.exited;
}

[[noreturn]] void report_overlap(const ThreadContext& thread, uint32_t mask, const WarpOperation& pending) {
  report("warp mask", "lane " + std::to_string(thread.lane) + " comes here with mask " + describe_mask(mask) +
                          ", but lanes " + describe_mask(pending.arrived) + " wait for it with mask " +
                          describe_mask(pending.mask) + " at " + describe_line(pending.here));
}

// The operation that this lane joins: a pending one of the same kind and mask, or a new one.
WarpOperation& find_operation(ThreadContext& thread, Warp& warp, int kind, uint32_t mask) {
  WarpOperation* free = nullptr;
  const uint32_t own = 1u << thread.lane;
  for (WarpOperation& operation : warp.operations) {
    if (!operation.pending) {
      if (!free) free = &operation;
      continue;
    }
    if (operation.kind == kind && operation.mask == mask && !(operation.arrived & own)) return operation;
    // Lanes that wait for this one would have to come here first. (Without them this lane may well come there later.)
    if (operation.mask & own && operation.arrived & mask) report_overlap(thread, mask, operation);
  }
  if (!free) report("warp mask", "more masks are waiting in this warp than the emulation can hold");
  *free = WarpOperation{true, kind, mask, 0, thread.here, nullptr};
  return *free;
}

bool is_complete(const Warp& warp, const WarpOperation& operation) {
  return operation.arrived == (operation.mask & live_lanes(warp));
}

// Computes for the lanes that have arrived and lets all but `current` go on.
void complete(Warp& warp, WarpOperation& operation, const ThreadContext* current) {
  ThreadContext* const lanes = engine.threads + (&warp - engine.warps) * kWarpSize;
  operation.pending = false;
  if (operation.combine) operation.combine(lanes, operation.arrived);
  if (operation.kind / kVariants == static_cast<int>(WarpKind::kBarrier)) {
    check_warp_barrier(lanes[0].warp, operation.arrived);
  }
  for_each_lane(operation.arrived, [&](uint32_t lane) {
    if (&lanes[lane] != current) engine.make_ready(lanes[lane]);
  });
}

}  // namespace

void warp_together(ThreadContext& thread, WarpKind kind, int variant, uint32_t mask, const void* input, void* output,
                   Combine combine) {
  Warp& warp = engine.warps[thread.warp];
  if (!(mask >> thread.lane & 1)) {
    report("warp mask", "lane " + std::to_string(thread.lane) + " is not in its own mask " + describe_mask(mask));
  }
  WarpOperation& operation = find_operation(thread, warp, static_cast<int>(kind) * kVariants + variant, mask);
  operation.combine = combine;
  operation.arrived |= 1u << thread.lane;
  thread.input = input;
  thread.output = output;
  thread.mask = mask;
  if (!is_complete(warp, operation)) {
    engine.wait(thread, ThreadState::kAtWarpOperation);
    return;
  }
  complete(warp, operation, &thread);
  if (engine.schedule == Schedule::kRandom || engine.schedule == Schedule::kPriorities) {
    engine.make_ready(thread);
    engine.wait(thread, ThreadState::kReady);
  }
}

void leave_warp(ThreadContext& thread) {
  Warp& warp = engine.warps[thread.warp];
  warp.exited |= 1u << thread.lane;
  for (WarpOperation& operation : warp.operations) {
    if (!operation.pending || !(operation.mask >> thread.lane & 1)) continue;
    const int kind = operation.kind / kVariants;
    if (kind == static_cast<int>(WarpKind::kLoadMatrix) || kind == static_cast<int>(WarpKind::kMultiply)) {
      report("warp mask", "lane " + std::to_string(thread.lane) + " exits, but lanes " +
                              describe_mask(operation.arrived) + " wait for it at " + describe_line(operation.here));
    }
    if (is_complete(warp, operation)) complete(warp, operation, nullptr);
  }
}

// ---- Shuffles ----

namespace {

struct ShuffleInput {
  ShuffleMode mode;
  uint32_t value, lane, limits;
};

struct ShuffleOutput {
  ShuffleResult result;
  int outside = -1;  // a lane that was read though it does not take part
};

// As the PTX reference says it: the limits hold a segment mask and a clamp.
ShuffleOutput shuffled(ThreadContext* lanes, uint32_t arrived, uint32_t own) {
  const ShuffleInput& in = input_of<ShuffleInput>(lanes[own]);
  const int clamp = static_cast<int>(in.limits & 31), segment = static_cast<int>(in.limits >> 8 & 31);
  const int lane = static_cast<int>(own), distance = static_cast<int>(in.lane & 31);
  const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
  int from = lane;
  bool in_range = true;
  switch (in.mode) {
    case ShuffleMode::kUp:
      from = lane - distance;
      in_range = from >= last;
      break;
    case ShuffleMode::kDown:
      from = lane + distance;
      in_range = from <= last;
      break;
    case ShuffleMode::kButterfly:
      from = lane ^ distance;
      in_range = from <= last;
      break;
    case ShuffleMode::kIndex:
      from = first | (distance & ~segment);
      in_range = from <= last;
      break;
  }
  if (!in_range) from = lane;
  if (!(arrived >> from & 1)) return {{0xffffffffu, in_range}, from};
  return {{input_of<ShuffleInput>(lanes[from]).value, in_range}, -1};
}

void combine_shuffle(ThreadContext* lanes, uint32_t arrived) {
  for_each_lane(arrived, [&](uint32_t lane) { give(lanes[lane], shuffled(lanes, arrived, lane)); });
}

}  // namespace

ShuffleResult shuffle(ThreadContext& thread, ShuffleMode mode, uint32_t mask, uint32_t value, uint32_t lane,
                      uint32_t limits) {
  const ShuffleInput input{mode, value, lane, limits};
  ShuffleOutput output;
  warp_together(thread, WarpKind::kShuffle, static_cast<int>(mode), mask, &input, &output, &combine_shuffle);
  if (output.outside >= 0) {
    report("warp mask", "the shuffle reads lane " + std::to_string(output.outside) +
                            ", which does not take part (mask " + describe_mask(mask) + "): the value is undefined");
  }
  return output.result;
}

void warp_barrier(ThreadContext& thread, uint32_t mask) {
  warp_together(thread, WarpKind::kBarrier, 0, mask, nullptr, nullptr, nullptr);
}

// ---- Votes, matches, reductions ----

namespace {

struct VoteResult {
  uint32_t ballot, arrived;
};

void combine_vote(ThreadContext* lanes, uint32_t arrived) {
  uint32_t ballot = 0;
  for_each_lane(arrived, [&](uint32_t lane) { ballot |= uint32_t{input_of<bool>(lanes[lane])} << lane; });
  for_each_lane(arrived, [&](uint32_t lane) { give(lanes[lane], VoteResult{ballot, arrived}); });
}

VoteResult vote(ThreadContext& thread, uint32_t mask, bool predicate, int variant) {
  VoteResult result;
  warp_together(thread, WarpKind::kVote, variant, mask, &predicate, &result, &combine_vote);
  return result;
}

void combine_match(ThreadContext* lanes, uint32_t arrived) {
  for_each_lane(arrived, [&](uint32_t lane) {
    uint32_t same = 0;
    for_each_lane(arrived, [&](uint32_t other) {
      if (input_of<uint64_t>(lanes[lane]) == input_of<uint64_t>(lanes[other])) same |= 1u << other;
    });
    give(lanes[lane], VoteResult{same, arrived});
  });
}

void combine_elect(ThreadContext* lanes, uint32_t arrived) {
  uint32_t choice = engine.random.below(static_cast<uint32_t>(std::popcount(arrived)));
  uint32_t left = arrived;
  for (; choice > 0; --choice) left &= left - 1;
  for_each_lane(arrived, [&](uint32_t lane) { give(lanes[lane], static_cast<uint32_t>(std::countr_zero(left))); });
}

enum ReduceVariant { kAdd, kMin, kMax, kAnd, kOr, kXor };

template <class T, ReduceVariant kVariant>
T reduced(T a, T b) {
  switch (kVariant) {
    case kAdd:
      return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
    case kMin:
      return b < a ? b : a;
    case kMax:
      return b > a ? b : a;
    case kAnd:
      return a & b;
    case kOr:
      return a | b;
    case kXor:
      return a ^ b;
  }
  return a;
}

template <class T, ReduceVariant kVariant>
void combine_reduce(ThreadContext* lanes, uint32_t arrived) {
  T result = input_of<T>(lanes[std::countr_zero(arrived)]);
  for_each_lane(arrived & (arrived - 1),
                [&](uint32_t lane) { result = reduced<T, kVariant>(result, input_of<T>(lanes[lane])); });
  for_each_lane(arrived, [&](uint32_t lane) { give(lanes[lane], result); });
}

template <class T, ReduceVariant kVariant>
T reduce(ThreadContext& thread, uint32_t mask, T value) {
  T result;
  warp_together(thread, WarpKind::kReduce, kVariant, mask, &value, &result, &combine_reduce<T, kVariant>);
  return result;
}

}  // namespace

uint32_t vote_ballot(ThreadContext& thread, uint32_t mask, bool predicate) {
  return vote(thread, mask, predicate, 0).ballot;
}

bool vote_all(ThreadContext& thread, uint32_t mask, bool predicate) {
  const VoteResult result = vote(thread, mask, predicate, 1);
  return result.ballot == result.arrived;
}

bool vote_any(ThreadContext& thread, uint32_t mask, bool predicate) {
  return vote(thread, mask, predicate, 2).ballot != 0;
}

bool vote_uni(ThreadContext& thread, uint32_t mask, bool predicate) {
  const VoteResult result = vote(thread, mask, predicate, 3);
  return result.ballot == 0 || result.ballot == result.arrived;
}

uint32_t match_any(ThreadContext& thread, uint32_t mask, uint64_t value) {
  VoteResult result;
  warp_together(thread, WarpKind::kMatch, 0, mask, &value, &result, &combine_match);
  return result.ballot;
}

uint32_t match_all(ThreadContext& thread, uint32_t mask, uint64_t value) {
  VoteResult result;
  warp_together(thread, WarpKind::kMatch, 1, mask, &value, &result, &combine_match);
  return result.ballot == result.arrived ? result.ballot : 0;
}

uint32_t elect_lane(ThreadContext& thread, uint32_t mask) {
  uint32_t leader = 0;
  warp_together(thread, WarpKind::kElect, 0, mask, nullptr, &leader, &combine_elect);
  return leader;
}

template <class T>
T warp_reduce_add(ThreadContext& thread, uint32_t mask, T value) {
  return reduce<T, kAdd>(thread, mask, value);
}
template <class T>
T warp_reduce_min(ThreadContext& thread, uint32_t mask, T value) {
  return reduce<T, kMin>(thread, mask, value);
}
template <class T>
T warp_reduce_max(ThreadContext& thread, uint32_t mask, T value) {
  return reduce<T, kMax>(thread, mask, value);
}
template <class T>
T warp_reduce_and(ThreadContext& thread, uint32_t mask, T value) {
  return reduce<T, kAnd>(thread, mask, value);
}
template <class T>
T warp_reduce_or(ThreadContext& thread, uint32_t mask, T value) {
  return reduce<T, kOr>(thread, mask, value);
}
template <class T>
T warp_reduce_xor(ThreadContext& thread, uint32_t mask, T value) {
  return reduce<T, kXor>(thread, mask, value);
}

template uint32_t warp_reduce_add<uint32_t>(ThreadContext&, uint32_t, uint32_t);
template int32_t warp_reduce_add<int32_t>(ThreadContext&, uint32_t, int32_t);
template uint32_t warp_reduce_min<uint32_t>(ThreadContext&, uint32_t, uint32_t);
template int32_t warp_reduce_min<int32_t>(ThreadContext&, uint32_t, int32_t);
template uint32_t warp_reduce_max<uint32_t>(ThreadContext&, uint32_t, uint32_t);
template int32_t warp_reduce_max<int32_t>(ThreadContext&, uint32_t, int32_t);
template uint32_t warp_reduce_and<uint32_t>(ThreadContext&, uint32_t, uint32_t);
template uint32_t warp_reduce_or<uint32_t>(ThreadContext&, uint32_t, uint32_t);
template uint32_t warp_reduce_xor<uint32_t>(ThreadContext&, uint32_t, uint32_t);

}  // namespace cuda_emulation
