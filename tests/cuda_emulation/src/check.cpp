#include "check.h"

#include <algorithm>
#include <cstring>

#include "access_counters.h"
#include "engine.h"
#include "fiber.h"
#include "race.h"
#include "shadow.h"

namespace cuda_emulation {

const bool checking = settings().check;

namespace {

struct Kind {
  bool reads, writes, strong;
};

Kind kind_of(Access access) {
  switch (access) {
    case Access::kRead:
      return {true, false, false};
    case Access::kWrite:
      return {false, true, false};
    case Access::kStrongRead:
      return {true, false, true};
    case Access::kStrongWrite:
      return {false, true, true};
    case Access::kAtomic:
      return {true, true, true};
  }
  return {};
}

std::string words(const Kind& kind, uint32_t bytes) {
  return std::string(kind.reads && kind.writes ? "atomic"
                     : kind.writes             ? "store"
                                               : "load") +
         " of " + std::to_string(bytes) + " bytes";
}

bool is_parameter(const void* at) {
  const Launch& launch = *engine.launch;
  return static_cast<size_t>(static_cast<const unsigned char*>(at) - launch.parameters.get()) < launch.parameter_bytes;
}

// Memory that is neither device nor shared memory: a thread's own local memory, parameters, pinned host memory.
void judge_elsewhere(const ThreadContext& thread, const void* at, uint32_t bytes, const Kind& kind) {
  bool in_guard = false;
  const int fiber = fiber_of_address(at, &in_guard);
  if (fiber == static_cast<int>(thread.number) && !in_guard) return;
  if (is_parameter(at) && !kind.writes) return;
  if (is_pinned_host(at, bytes)) return;
  report(fiber >= 0 ? "bad access" : "host pointer",
         words(kind, bytes) + " at " + describe_address(at) +
             (fiber >= 0 ? "" : ", which is neither device memory nor pinned"));
}

bool all_initialised(const uint8_t* states, uint32_t bytes) {
  constexpr uint32_t kFour = kInitialised * 0x01010101u;
  uint32_t k = 0;
  for (uint32_t four; k + 4 <= bytes; k += 4) {
    std::memcpy(&four, states + k, 4);
    if (four != kFour) return false;
  }
  return std::all_of(states + k, states + bytes, [](uint8_t state) { return state == kInitialised; });
}

void judge_states(const uint8_t* states, const void* at, uint32_t bytes, const Kind& kind) {
  if (all_initialised(states, bytes)) return;
  for (uint32_t k = 0; k < bytes; ++k) {
    if (states[k] == kInitialised) continue;
    const void* const byte = static_cast<const unsigned char*>(at) + k;
    if (states[k] == kUnallocated) report("out of bounds", words(kind, bytes) + " reaches " + describe_address(byte));
    if (states[k] == kInFlight) {
      report("cp.async in flight",
             words(kind, bytes) + " at " + describe_address(byte) + ", where an asynchronous copy has not landed");
    }
    if (kind.reads) report("uninitialised read", words(kind, bytes) + ": nobody has written " + describe_address(byte));
  }
}

}  // namespace

void judge_access(ThreadContext& thread, const void* at, uint32_t bytes, Access access) {
  const Kind kind = kind_of(access);
  const ShadowRegion* const region = shadow_region(at);
  if (!region) {
    judge_elsewhere(thread, at, bytes, kind);
    return;
  }
  uint8_t* const states = region->states + region->offset(at);
  judge_states(states, at, bytes, kind);
  if (kind.writes) std::memset(states, kInitialised, bytes);
  judge_races(thread, *region, at, bytes, kind.reads, kind.writes, kind.strong);
  if (kind.strong) synchronise(thread, at, kind.reads, kind.writes);
}

void note_access(ThreadContext& thread, const void* at, uint32_t bytes, Access access) {
  judge_access(thread, at, bytes, access);
  if (!counting_accesses()) return;
  const ShadowRegion* const region = shadow_region(at);
  if (region) count_access(thread, at, bytes, kind_of(access).writes, region->is_shared);
}

}  // namespace cuda_emulation
