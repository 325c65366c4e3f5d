#include "engine.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <numeric>

#include "access_counters.h"
#include "barrier.h"
#include "check.h"
#include "device_library.h"
#include "device_memory.h"
#include "fault.h"
#include "fiber.h"
#include "shared_memory.h"

namespace cuda_emulation {
namespace {

// Yields in a row without any progress after which a block is taken for stuck.
constexpr uint64_t kFruitlessYields = 100'000'000;

std::mutex engine_mutex;
thread_local bool thread_runs_kernel = false;

}  // namespace

Engine engine;

bool inside_launch() {
  return thread_runs_kernel && engine.launch;
}

void run_launch(const Launch& launch) {
  const std::lock_guard lock(engine_mutex);
  const DeviceAccess access;
  thread_runs_kernel = true;
  engine.run(launch);
  thread_runs_kernel = false;
}

void Engine::run(const Launch& to_run) {
  launch = &to_run;
  static const bool seeded = [this] {
    random = Random(settings().seed);
    return true;
  }();
  (void)seeded;
  load_variables();
  watch_faults();
  adopt_host_stack();
  open_shared_memory(to_run);
  check_launch_begins();
  const uint64_t count = uint64_t{to_run.grid.x} * to_run.grid.y * to_run.grid.z;
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  // A kernel that polls global memory may wait for an earlier block, as hardware lets it: those blocks start in order.
  if (!to_run.kernel->waits_for_blocks) {
    for (uint64_t k = count; k > 1; --k) std::swap(order[k - 1], order[random.below(static_cast<uint32_t>(k))]);
  }
  for (const uint32_t number : order) run_block(number);
  close_shared_memory();
  verify_canaries(to_run.kernel->name);
  launch = nullptr;
}

void Engine::run_block(uint32_t number) {
  const dim3& grid = launch->grid;
  const dim3& size = launch->block;
  block.index[0] = number % grid.x;
  block.index[1] = number / grid.x % grid.y;
  block.index[2] = number / (grid.x * grid.y);
  const uint32_t sizes[] = {size.x, size.y, size.z}, grid_sizes[] = {grid.x, grid.y, grid.z};
  std::copy_n(sizes, 3, block.size);
  std::copy_n(grid_sizes, 3, block.grid_size);
  block.threads = size.x * size.y * size.z;
  block.warps = (block.threads + kWarpSize - 1) / kWarpSize;
  fill_shared_memory();
  check_block_begins();
  // Fair interleavings alone miss bugs: all warps advance alike. So some blocks run one warp far ahead of the others.
  constexpr Schedule kSchedules[] = {Schedule::kRandom, Schedule::kForward, Schedule::kBackward, Schedule::kPriorities};
  schedule = kSchedules[random.below(4)];
  start_threads();
  go_on(nullptr, pick(), false);
  current = nullptr;
  verify_shared_memory();
  if (counting_accesses()) count_block();
}

void Engine::start_threads() {
  threads_alive = block.threads;
  threads_at_barrier = 0;
  ready_warps_ = 0;
  fruitless_yields = 0;
  for (NamedBarrier& barrier : named_barriers) barrier = NamedBarrier{};
  for (uint32_t w = 0; w < block.warps; ++w) {
    const uint32_t lanes = std::min(kWarpSize, block.threads - w * kWarpSize);
    warps[w] = Warp{};
    warps[w].exists = lanes == kWarpSize ? 0xffffffffu : (1u << lanes) - 1;
    warps[w].priority = random.next();
  }
  for (uint32_t k = 0; k < block.threads; ++k) {
    ThreadContext& thread = threads[k];
    thread.block = &block;
    thread.shared = shared_window();
    thread.here = nullptr;
    thread.number = k;
    thread.lane = k % kWarpSize;
    thread.warp = k / kWarpSize;
    thread.index[0] = k % block.size[0];
    thread.index[1] = k / block.size[0] % block.size[1];
    thread.index[2] = k / (block.size[0] * block.size[1]);
    thread.open_copies.clear();
    thread.copy_groups.clear();
    prepare_fiber(thread);
    make_ready(thread);
  }
}

uint32_t Engine::pick_bit(uint32_t bits) {
  if (schedule == Schedule::kForward) return static_cast<uint32_t>(std::countr_zero(bits));
  if (schedule == Schedule::kBackward) return 31 - static_cast<uint32_t>(std::countl_zero(bits));
  for (uint32_t skip = random.below(static_cast<uint32_t>(std::popcount(bits))); skip > 0; --skip) bits &= bits - 1;
  return static_cast<uint32_t>(std::countr_zero(bits));
}

uint32_t Engine::pick_warp() {
  if (schedule != Schedule::kPriorities) return pick_bit(ready_warps_);
  // Strict priorities that rarely change: one warp runs until it must wait.
  if (random.below(256) == 0) warps[random.below(block.warps)].priority = random.next();
  uint32_t best = static_cast<uint32_t>(std::countr_zero(ready_warps_));
  for (uint32_t left = ready_warps_; left != 0; left &= left - 1) {
    const uint32_t w = static_cast<uint32_t>(std::countr_zero(left));
    if (warps[w].priority > warps[best].priority) best = w;
  }
  return best;
}

ThreadContext* Engine::pick() {
  if (ready_warps_ == 0) return nullptr;
  const uint32_t w = pick_warp();
  const uint32_t lane = pick_bit(warps[w].ready);
  warps[w].ready &= ~(1u << lane);
  if (warps[w].ready == 0) ready_warps_ &= ~(1u << w);
  return &threads[w * kWarpSize + lane];
}

void Engine::make_ready(ThreadContext& thread) {
  thread.state = ThreadState::kReady;
  warps[thread.warp].ready |= 1u << thread.lane;
  ready_warps_ |= 1u << thread.warp;
}

void Engine::go_on(ThreadContext* from, ThreadContext* to, bool ends) {
  current = to;
  if (to) to->state = ThreadState::kRunning;
  if (from == to) return;
  switch_fiber(from, to, ends);
}

void Engine::wait(ThreadContext& thread, ThreadState state) {
  thread.state = state;
  fruitless_yields = 0;
  ThreadContext* const next = pick();
  if (!next) report_deadlock();
  go_on(&thread, next, false);
}

void Engine::yield(ThreadContext& thread) {
  if (++fruitless_yields > kFruitlessYields) {
    report("no progress",
           "the threads of this block poll memory that nobody will write: it waits for a block that "
           "starts later or for itself");
  }
  make_ready(thread);
  // A fair choice, so that the thread that others wait for gets its turn under every schedule.
  const Schedule saved = schedule;
  schedule = Schedule::kRandom;
  ThreadContext* const next = pick();
  schedule = saved;
  go_on(&thread, next, false);
}

void Engine::exit(ThreadContext& thread) {
  check_thread_settles(thread);
  thread.state = ThreadState::kExited;
  fruitless_yields = 0;
  --threads_alive;
  leave_barriers(thread);
  ThreadContext* const next = pick();
  if (!next && threads_alive > 0) report_deadlock();
  go_on(&thread, next, true);
  std::abort();  // an exited fiber is never resumed
}

void Engine::report_deadlock() {
  std::string text = "no thread of the block can go on";
  struct Group {
    const ThreadContext* first;
    uint32_t count;
  };
  std::vector<Group> groups;
  for (uint32_t k = 0; k < block.threads; ++k) {
    const ThreadContext& thread = threads[k];
    if (thread.state == ThreadState::kExited) continue;
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
      return group.first->state == thread.state && group.first->here == thread.here && group.first->mask == thread.mask;
    });
    if (same == groups.end()) {
      groups.push_back({&thread, 1});
    } else {
      ++same->count;
    }
  }
  for (const Group& group : groups) text += "\n    " + std::to_string(group.count) + describe_wait(*group.first);
  current = nullptr;
  report("divergent barrier", text + "\n    " + std::to_string(block.threads - threads_alive) + " thread(s) exited");
}

void fiber_main() {
  ThreadContext& thread = *engine.current;
  engine.launch->kernel->run(thread, engine.launch->parameters.get());
  exit_thread(thread);
}

}  // namespace cuda_emulation
