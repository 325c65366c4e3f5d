// What a CUDA thread knows about itself while its fiber runs. Translated code reads these fields directly.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "module.h"

namespace cuda_emulation {

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaximumThreads = 1024;
constexpr uint32_t kMaximumWarps = kMaximumThreads / kWarpSize;

struct BlockContext {
  uint32_t index[3];
  uint32_t size[3];
  uint32_t grid_size[3];
  uint32_t threads;
  uint32_t warps;
  uint32_t dynamic_shared_offset;
  uint32_t dynamic_shared_bytes;
  uint32_t static_shared_bytes;
};

enum class ThreadState : uint8_t { kReady, kRunning, kAtBlockBarrier, kAtNamedBarrier, kAtWarpOperation, kExited };

// One cp.async that has been issued and has not landed.
struct PendingCopy {
  unsigned char* target;
  const unsigned char* source;
  uint32_t bytes;
  uint32_t source_bytes;
  const SourceLine* here;
};

struct ThreadContext {
  const BlockContext* block;
  unsigned char* shared;  // begin of the window of shared memory
  const SourceLine* here = nullptr;
  uint32_t index[3];
  uint32_t number;  // in the block
  uint32_t lane;
  uint32_t warp;
  bool carry = false;  // the condition code of add.cc and its relatives

  ThreadState state = ThreadState::kReady;
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  void* sanitizer_stack = nullptr;  // ASan's fake stack, TSan's fiber

  // What the thread deposits where it waits.
  int waits_for = 0;  // kind of warp operation, or number of a named barrier
  uint32_t mask = 0;
  bool predicate = false;
  const void* input = nullptr;
  void* output = nullptr;

  std::vector<PendingCopy> open_copies;
  std::deque<std::vector<PendingCopy>> copy_groups;
};

}  // namespace cuda_emulation
