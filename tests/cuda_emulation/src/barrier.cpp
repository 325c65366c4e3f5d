#include "barrier.h"

#include "check.h"
#include "engine.h"
#include "report.h"
#include "warp.h"

namespace cuda_emulation {
namespace {

void require_same_barrier(const ThreadContext& first, const ThreadContext& other) {
  if (first.here == other.here && first.waits_for == other.waits_for) return;
  report("divergent barrier", "threads of one block meet at different barriers: thread " + describe_thread(first) +
                                  " at " + describe_line(first.here) + ", thread " + describe_thread(other) + " at " +
                                  describe_line(other.here));
}

// All threads that live have arrived. Stricter than hardware: threads that have exited should have come too.
void finish_block_barrier() {
  const ThreadContext* first = nullptr;
  uint32_t count = 0;
  for (uint32_t k = 0; k < engine.block.threads; ++k) {
    const ThreadContext& thread = engine.threads[k];
    if (thread.state != ThreadState::kAtBlockBarrier) continue;
    if (!first) first = &thread;
    require_same_barrier(*first, thread);
    count += thread.predicate ? 1 : 0;
  }
  if (engine.threads_alive < engine.block.threads) {
    report("divergent barrier", std::to_string(engine.block.threads - engine.threads_alive) +
                                    " thread(s) of the block exited before this barrier at " +
                                    describe_line(first->here));
  }
  engine.barrier_count = count;
  engine.threads_at_barrier = 0;
  for (uint32_t k = 0; k < engine.block.threads; ++k) {
    if (engine.threads[k].state == ThreadState::kAtBlockBarrier) engine.make_ready(engine.threads[k]);
  }
  check_block_barrier();
}

// A numbered barrier with a count may have threads that only arrive (bar.arrive), even when it counts all.
bool is_whole_block(uint32_t number, uint32_t count) {
  return count == 0 || (number == 0 && count == engine.block.warps * kWarpSize);
}

// Waits for the whole block and returns how many threads brought a true predicate.
uint32_t whole_block_barrier(ThreadContext& thread, uint32_t number, bool predicate) {
  check_thread_settles(thread);
  thread.predicate = predicate;
  thread.waits_for = static_cast<int>(number);
  thread.mask = 0;
  thread.state = ThreadState::kAtBlockBarrier;
  ++engine.threads_at_barrier;
  if (engine.threads_at_barrier == engine.threads_alive) finish_block_barrier();
  engine.wait(thread, thread.state);  // kReady when the barrier is already complete
  return engine.barrier_count;
}

NamedBarrier& arrive_at(uint32_t number, uint32_t count) {
  if (number >= 16) report("barrier", "barrier " + std::to_string(number) + " does not exist; there are 16");
  if (count % kWarpSize != 0) {
    report("barrier", "the thread count " + std::to_string(count) + " is not a multiple of the warp size");
  }
  NamedBarrier& barrier = engine.named_barriers[number];
  if (barrier.arrived > 0 && barrier.expected != count) {
    report("divergent barrier", "barrier " + std::to_string(number) + " is used with " + std::to_string(count) +
                                    " threads while others wait at it with " + std::to_string(barrier.expected));
  }
  barrier.expected = count;
  ++barrier.arrived;
  return barrier;
}

void release_named(uint32_t number, NamedBarrier& barrier) {
  barrier = NamedBarrier{};
  for (uint32_t k = 0; k < engine.block.threads; ++k) {
    ThreadContext& waiting = engine.threads[k];
    if (waiting.state == ThreadState::kAtNamedBarrier && waiting.waits_for == static_cast<int>(number)) {
      engine.make_ready(waiting);
    }
  }
  check_block_barrier();
}

}  // namespace

void block_barrier(ThreadContext& thread, uint32_t number, uint32_t count) {
  if (is_whole_block(number, count)) {
    whole_block_barrier(thread, number, false);
    return;
  }
  NamedBarrier& barrier = arrive_at(number, count);
  thread.waits_for = static_cast<int>(number);
  thread.mask = 0;
  thread.state = ThreadState::kAtNamedBarrier;
  if (barrier.arrived == barrier.expected) release_named(number, barrier);
  engine.wait(thread, thread.state);
}

void block_barrier_arrive(ThreadContext&, uint32_t number, uint32_t count) {
  NamedBarrier& barrier = arrive_at(number, count);
  if (barrier.arrived == barrier.expected) release_named(number, barrier);
}

uint32_t block_barrier_popc(ThreadContext& thread, uint32_t number, uint32_t count, bool predicate) {
  if (!is_whole_block(number, count)) report("barrier", "a reducing barrier of a part of the block is not emulated");
  return whole_block_barrier(thread, number, predicate);
}

bool block_barrier_and(ThreadContext& thread, uint32_t number, uint32_t count, bool predicate) {
  return block_barrier_popc(thread, number, count, predicate) == engine.block.threads;
}

bool block_barrier_or(ThreadContext& thread, uint32_t number, uint32_t count, bool predicate) {
  return block_barrier_popc(thread, number, count, predicate) != 0;
}

void leave_barriers(ThreadContext& thread) {
  leave_warp(thread);
  if (engine.threads_alive > 0 && engine.threads_at_barrier == engine.threads_alive) finish_block_barrier();
}

std::string describe_wait(const ThreadContext& thread) {
  std::string text = " thread(s), the first " + describe_thread(thread) + ", wait at " + describe_line(thread.here);
  switch (thread.state) {
    case ThreadState::kAtBlockBarrier:
      return text + " for the whole block";
    case ThreadState::kAtNamedBarrier:
      return text + " at barrier " + std::to_string(thread.waits_for);
    default:
      return text + " for the lanes of mask " + describe_mask(thread.mask);
  }
}

}  // namespace cuda_emulation
