// The engine: runs one grid at a time. Blocks run one after another; inside a block every thread is a fiber, and which
// one goes on at a barrier, a warp operation or an atomic is chosen by a random, deliberately unfair schedule.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "internal.h"
#include "thread.h"

namespace cuda_emulation {

struct Launch {
  const KernelInfo* kernel;
  const ModuleInfo* module;
  dim3 grid;
  dim3 block;
  uint32_t dynamic_shared;
  std::shared_ptr<unsigned char[]> parameters;  // the parameter block as PTX lays it out
  uint32_t parameter_bytes;
};

// Runs a grid to its end on the calling host thread; launches of several host threads wait for each other.
void run_launch(const Launch& launch);

// An operation that the lanes of a mask carry out together.
struct WarpOperation {
  bool pending = false;
  int kind = 0;
  uint32_t mask = 0;
  uint32_t arrived = 0;
  const SourceLine* here = nullptr;
  void (*combine)(ThreadContext* lanes, uint32_t arrived) = nullptr;
};

struct Warp {
  uint32_t exists;  // lanes that the block has
  uint32_t exited;
  uint32_t ready;
  uint32_t priority;
  WarpOperation operations[8];
};

struct NamedBarrier {
  uint32_t expected = 0;  // threads, 0 while nobody waits
  uint32_t arrived = 0;
};

enum class Schedule { kRandom, kForward, kBackward, kPriorities };

class Engine {
 public:
  void run(const Launch& launch);

  // The calling thread waits in `state` until somebody calls make_ready on it.
  void wait(ThreadContext& thread, ThreadState state);
  void make_ready(ThreadContext& thread);
  // Lets another thread go first, as a chance for the schedule or because this one polls.
  void yield(ThreadContext& thread);
  // The thread is over; another one goes on.
  [[noreturn]] void exit(ThreadContext& thread);
  [[noreturn]] void report_deadlock();

  ThreadContext threads[kMaximumThreads];
  Warp warps[kMaximumWarps];
  NamedBarrier named_barriers[16];
  BlockContext block{};
  const Launch* launch = nullptr;
  ThreadContext* current = nullptr;  // the running thread
  uint32_t threads_alive = 0;
  uint32_t threads_at_barrier = 0;
  uint32_t barrier_count = 0;
  Random random{0};
  Schedule schedule = Schedule::kRandom;
  uint64_t fruitless_yields = 0;  // since a thread last did something else than polling

 private:
  void run_block(uint32_t number);
  void start_threads();
  ThreadContext* pick();
  uint32_t pick_warp();
  uint32_t pick_bit(uint32_t bits);
  void go_on(ThreadContext* from, ThreadContext* to, bool ends);

  uint32_t ready_warps_ = 0;
};

extern Engine engine;

// Whether the calling host thread runs a kernel (its fibers included).
bool inside_launch();

}  // namespace cuda_emulation
