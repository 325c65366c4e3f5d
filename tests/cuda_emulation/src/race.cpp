#include "race.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <unordered_map>
#include <vector>

#include "check.h"
#include "engine.h"
#include "report.h"

namespace cuda_emulation {
namespace {

struct Release {
  uint32_t epoch;
  uint32_t block_begin;  // epochs of the releasing thread's block when it released
  uint32_t segment_begin;
  uint32_t warp_synchronised;
  uint32_t thread;
};

using ReleaseLog = std::vector<Release>;  // of one address, in the order of time

struct Acquired {
  const ReleaseLog* log;
  size_t count;  // releases that were there when it was read
};

constexpr size_t kMostAcquired = 64;  // per thread; a poller of more addresses forgets the oldest

// A plain read beside an atomic: wrong, unless it begins a loop of compare-and-swap, which reads plainly once and then
// lets the swap find out. Which of the two it was shows when its thread comes to an atomic at that address, or does
// not.
struct Suspicion {
  const void* at = nullptr;
  int32_t read_line = 0, atomic_line = 0;
  uint32_t atomic_thread = 0;
  bool same_block = true;
};

struct Clock {
  uint32_t now = 1;
  uint32_t launch_begin = 1;
  uint32_t block_begin = 1;
  uint32_t segment_begin = 1;                      // the last barrier of the block
  uint32_t warp_synchronised[kMaximumWarps] = {};  // the last warp barrier of all its lanes
  // Barriers of some lanes: what lane i of a warp knows of lane j. Kept only for warps that have had one.
  std::unique_ptr<uint32_t[]> lane_known[kMaximumWarps];
  std::unordered_map<uintptr_t, std::unique_ptr<ReleaseLog>> releases;
  std::vector<Acquired> acquired[kMaximumThreads];
  std::vector<uint32_t> acquirers;  // threads with a non-empty list
  std::vector<Acquired> block_acquired;
  bool released_within_block = false;  // a thread has acquired what another of this block released
  Suspicion suspicions[kMaximumThreads];
};
// Made before any kernel can run, never destroyed.
Clock& clock = *new Clock;

bool covers(const Release& release, uint32_t epoch, uint32_t by) {
  if (epoch < release.block_begin || epoch > release.epoch) return false;
  if (release.thread == by || epoch < release.segment_begin) return true;
  return release.thread / kWarpSize == by / kWarpSize && epoch < release.warp_synchronised;
}

bool is_released(const std::vector<Acquired>& acquired, uint32_t epoch, uint32_t by) {
  for (const Acquired& entry : acquired) {
    const auto end = entry.log->begin() + static_cast<ptrdiff_t>(entry.count);
    auto at = std::lower_bound(entry.log->begin(), end, epoch,
                               [](const Release& release, uint32_t value) { return release.epoch < value; });
    for (; at != end && at->block_begin <= epoch; ++at) {
      if (covers(*at, epoch, by)) return true;
    }
  }
  return false;
}

// Whether an access of this block (`by` with the flags of a cell) is ordered before `thread` by its warp.
bool is_ordered_by_warp(const ThreadContext& thread, uint16_t by, uint32_t epoch) {
  const uint32_t other = by & kThreadBits;
  if (other / kWarpSize != thread.warp || by & kManyWarps) return false;
  if (epoch < clock.warp_synchronised[thread.warp]) return true;
  const uint32_t* const known = clock.lane_known[thread.warp].get();
  if (!known) return false;
  const uint32_t* const row = known + thread.lane * kWarpSize;
  if (!(by & kManyLanes)) return epoch < row[other % kWarpSize];
  return std::all_of(row, row + kWarpSize, [=](uint32_t lane_epoch) { return epoch < lane_epoch; });
}

// Ordered by a barrier of the block or of the warp, or by being the same thread's.
bool is_ordered_in_block(const ThreadContext& thread, uint16_t by, uint32_t epoch) {
  if (epoch < clock.segment_begin) return true;
  if ((by & kThreadBits) == thread.number && !(by & (kManyLanes | kManyWarps))) return true;
  return is_ordered_by_warp(thread, by, epoch);
}

// Of an access of this launch.
bool is_ordered_in_launch(const ThreadContext& thread, uint16_t by, uint32_t epoch, bool is_shared) {
  if (epoch >= clock.block_begin) {
    if (is_ordered_in_block(thread, by, epoch)) return true;
  } else if (is_shared) {
    return true;  // another block's shared memory
  }
  const uint32_t other = by & kThreadBits;
  return is_released(clock.acquired[thread.number], epoch, other) || is_released(clock.block_acquired, epoch, other);
}

// Most accesses meet those of an earlier launch.
inline bool is_ordered(const ThreadContext& thread, uint16_t by, uint32_t epoch, bool is_shared) {
  return epoch < clock.launch_begin || is_ordered_in_launch(thread, by, epoch, is_shared);
}

[[noreturn]] void report_race(const char* what, const void* at, Cell cell, bool against_write) {
  const uint32_t epoch = against_write ? cell.write_epoch : cell.read_epoch;
  const uint16_t by = against_write ? cell.writer : cell.reader;
  const bool same_block = epoch >= clock.block_begin;
  report("data race", std::string(what) + " at " + describe_address(at) + "; nothing orders it after the " +
                          (against_write ? "write" : "read") + " by thread " +
                          describe_thread_number(by & kThreadBits) + " of " +
                          (same_block ? "this block" : "another block") + " at " +
                          describe_line(unpack_line(against_write ? cell.write_line : cell.read_line)));
}

// Cells are handed on by value, so that they stay in registers.
struct Judgement {
  const ThreadContext& thread;
  const ShadowRegion& region;
  bool reads, writes, strong;
  int32_t line;
};

[[noreturn]] void report_suspicion(const Suspicion& suspicion) {
  report("data race",
         "plain read at " + describe_address(suspicion.at) + " at " + describe_line(unpack_line(suspicion.read_line)) +
             "; nothing orders it against the atomic by thread " + describe_thread_number(suspicion.atomic_thread) +
             " of " + (suspicion.same_block ? "this block" : "another block") + " at " +
             describe_line(unpack_line(suspicion.atomic_line)));
}

void suspect(uint32_t reader, const Suspicion& suspicion) {
  Suspicion& held = clock.suspicions[reader];
  if (held.at && held.at != suspicion.at) report_suspicion(held);
  held = suspicion;
}

void judge_against_write(const Judgement& access, Cell cell, const void* at, const void* begin) {
  if (access.strong && cell.writer & kStrong) return;
  if (is_ordered(access.thread, cell.writer, cell.write_epoch, access.region.is_shared)) return;
  if (!access.writes && cell.writer & kStrong) {
    suspect(access.thread.number, {begin, access.line, cell.write_line, uint32_t{cell.writer} & kThreadBits,
                                   cell.write_epoch >= clock.block_begin});
    return;
  }
  report_race(access.writes ? "write after write" : "read after write", at, cell, true);
}

void judge_against_read(const Judgement& access, Cell cell, const void* at, const void* begin) {
  if (access.strong && cell.reader & kStrong) return;
  if (is_ordered(access.thread, cell.reader, cell.read_epoch, access.region.is_shared)) return;
  const uint32_t reader = cell.reader & kThreadBits;
  const bool may_swap_yet =
      cell.read_epoch >= clock.block_begin && engine.threads[reader].state != ThreadState::kExited;
  if (access.reads && access.strong && may_swap_yet) {
    if (reader == access.thread.number) return;  // the swap of the last reader; who else read is not known
    suspect(reader, {begin, cell.read_line, access.line, access.thread.number, true});
    return;
  }
  report_race("write after read", at, cell, false);
}

// Reads are many and most stand in no order to each other: releases are asked only where the block has used some
// itself.
bool is_ordered_for_reading(const ThreadContext& thread, uint16_t by, uint32_t epoch) {
  if (is_ordered_in_block(thread, by, epoch)) return true;
  return clock.released_within_block && is_released(clock.acquired[thread.number], epoch, by & kThreadBits);
}

Cell with_read(const Judgement& access, Cell cell, uint16_t bytes) {
  uint16_t reader = static_cast<uint16_t>(access.thread.number | bytes | (access.strong ? kStrong : 0));
  if (cell.reader && cell.read_epoch >= clock.block_begin &&
      !is_ordered_for_reading(access.thread, cell.reader, cell.read_epoch)) {
    const bool same_warp = (cell.reader & kThreadBits) / kWarpSize == access.thread.warp;
    reader |= static_cast<uint16_t>((cell.reader & (kManyLanes | kManyWarps | kBothBytes)) |
                                    (same_warp ? kManyLanes : kManyWarps));
    if (!(cell.reader & kStrong)) reader &= static_cast<uint16_t>(~kStrong);
  }
  cell.reader = reader;
  cell.read_epoch = clock.now;
  cell.read_line = access.line;
  return cell;
}

// The write comes after the reads of these bytes and now stands for them.
Cell with_write(const Judgement& access, Cell cell, uint16_t bytes) {
  cell.writer = static_cast<uint16_t>(access.thread.number | bytes | (access.strong ? kStrong : 0));
  cell.write_epoch = clock.now;
  cell.write_line = access.line;
  cell.reader &= static_cast<uint16_t>(~bytes);
  if (!(cell.reader & kBothBytes)) cell.reader = 0;
  return cell;
}

}  // namespace

void judge_races(const ThreadContext& thread, const ShadowRegion& region, const void* at, uint32_t bytes, bool reads,
                 bool writes, bool strong) {
  const Judgement access{thread, region, reads, writes, strong, pack_line(thread.here)};
  const size_t first = region.offset(at), end = first + bytes;
  Suspicion& held = clock.suspicions[thread.number];
  if (reads && writes && held.at == at) held.at = nullptr;  // the swap that the read began
  // Whole cells that were alike are alike afterwards: those of one number mostly are.
  Cell whole_before{}, whole_after{};
  bool has_whole = false;
  for (size_t index = first / 2; index * 2 < end; ++index) {
    const Cell before = region.cells[index];
    uint16_t touched = 0;
    if (index * 2 >= first) touched |= kLowByte;
    if (index * 2 + 1 < end) touched |= kHighByte;
    if (has_whole && touched == kBothBytes && before == whole_before) {
      region.cells[index] = whole_after;
      continue;
    }
    const void* const place = region.begin + std::max(first, index * 2);
    if (before.writer & touched) judge_against_write(access, before, place, at);
    if (writes && before.reader & touched) judge_against_read(access, before, place, at);
    const Cell after = writes ? with_write(access, before, touched) : with_read(access, before, touched);
    region.cells[index] = after;
    if (touched != kBothBytes) continue;
    has_whole = true;
    whole_before = before;
    whole_after = after;
  }
}

void synchronise(const ThreadContext& thread, const void* at, bool acquires, bool releases) {
  const uintptr_t key = reinterpret_cast<uintptr_t>(at) / 4;
  auto found = clock.releases.find(key);
  if (acquires && found != clock.releases.end()) {
    std::vector<Acquired>& acquired = clock.acquired[thread.number];
    if (acquired.empty()) clock.acquirers.push_back(thread.number);
    const ReleaseLog* const log = found->second.get();
    clock.released_within_block |= log->back().block_begin == clock.block_begin;
    const auto known = std::find_if(acquired.begin(), acquired.end(), [=](const Acquired& a) { return a.log == log; });
    if (known != acquired.end()) {
      known->count = log->size();
    } else {
      if (acquired.size() == kMostAcquired) acquired.erase(acquired.begin());
      acquired.push_back({log, log->size()});
    }
  }
  if (!releases) return;
  if (found == clock.releases.end()) found = clock.releases.emplace(key, std::make_unique<ReleaseLog>()).first;
  found->second->push_back(
      {clock.now, clock.block_begin, clock.segment_begin, clock.warp_synchronised[thread.warp], thread.number});
  ++clock.now;
}

void check_launch_begins() {
  if (!checking) return;
  constexpr uint32_t kNearlyOver = 0xf0000000u;
  if (clock.now > kNearlyOver) {
    clear_cells();
    clock.now = 1;
  }
  clock.launch_begin = ++clock.now;
  clock.releases.clear();
}

void check_block_begins() {
  if (!checking) return;
  clock.block_begin = clock.segment_begin = ++clock.now;
  for (uint32_t warp = 0; warp < engine.block.warps; ++warp) {
    clock.warp_synchronised[warp] = clock.now;
    clock.lane_known[warp].reset();
  }
  for (const uint32_t thread : clock.acquirers) clock.acquired[thread].clear();
  clock.acquirers.clear();
  clock.block_acquired.clear();
  clock.released_within_block = false;
  for (Suspicion& suspicion : clock.suspicions) suspicion.at = nullptr;
}

void check_block_barrier() {
  if (!checking) return;
  clock.segment_begin = ++clock.now;
  for (const uint32_t thread : clock.acquirers) {
    for (const Acquired& entry : clock.acquired[thread]) {
      const auto known = std::find_if(clock.block_acquired.begin(), clock.block_acquired.end(),
                                      [&](const Acquired& a) { return a.log == entry.log; });
      if (known == clock.block_acquired.end()) {
        clock.block_acquired.push_back(entry);
      } else {
        known->count = std::max(known->count, entry.count);
      }
    }
    clock.acquired[thread].clear();
  }
  clock.acquirers.clear();
}

void check_thread_settles(const ThreadContext& thread) {
  if (!checking) return;
  const Suspicion& held = clock.suspicions[thread.number];
  if (held.at) report_suspicion(held);
}

void check_warp_barrier(uint32_t warp, uint32_t lanes) {
  if (!checking) return;
  const uint32_t epoch = ++clock.now;
  const Warp& state = engine.warps[warp];
  if (lanes == (state.exists & ~state.exited)) {
    clock.warp_synchronised[warp] = epoch;
    return;
  }
  if (!clock.lane_known[warp]) clock.lane_known[warp] = std::make_unique<uint32_t[]>(kWarpSize * kWarpSize);
  uint32_t* const known = clock.lane_known[warp].get();
  uint32_t together[kWarpSize] = {};
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    together[lane] = epoch;
    for (uint32_t other = 0; other < kWarpSize; ++other) {
      together[other] = std::max(together[other], known[lane * kWarpSize + other]);
    }
  }
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1) std::copy_n(together, kWarpSize, known + lane * kWarpSize);
  }
}

}  // namespace cuda_emulation
