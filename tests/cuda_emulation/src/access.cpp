#include "access.h"

#include "device_memory.h"
#include "engine.h"
#include "fiber.h"
#include "shared_memory.h"

namespace cuda_emulation {

void report_misaligned(const void* at, uint32_t bytes) {
  report("misaligned access", "an access of " + std::to_string(bytes) +
                                  " bytes needs an address that is a multiple of " + std::to_string(bytes) + ": " +
                                  describe_address(at));
}

void yield_thread(ThreadContext& thread) {
  engine.yield(thread);
}

void yield_sometimes(ThreadContext& thread) {
  if (engine.random.below(8) == 0) engine.yield(thread);
}

// ---- cp.async ----

namespace {

void land(ThreadContext& thread, const PendingCopy& copy) {
  if (checking) {
    const SourceLine* const here = thread.here;
    thread.here = copy.here;
    set_in_flight(copy.target, copy.bytes, false);
    judge_access(thread, copy.target, copy.bytes, Access::kWrite);  // counted where it was issued
    thread.here = here;
  }
  std::memcpy(copy.target, copy.source, copy.source_bytes);
  std::memset(copy.target + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

}  // namespace

void copy_async(ThreadContext& thread, unsigned char* target, const unsigned char* source, uint32_t bytes,
                uint32_t source_bytes) {
  require_alignment(target, bytes);
  require_alignment(source, bytes);
  if (source_bytes > bytes) {
    report("cp.async", "reads " + std::to_string(source_bytes) + " bytes to write " + std::to_string(bytes));
  }
  if (!is_shared_address(target)) report("cp.async", "the target is " + describe_address(target));
  if (checking) {
    if (source_bytes > 0) note_access(thread, source, source_bytes, Access::kRead);
    note_access(thread, target, bytes, Access::kWrite);
    set_in_flight(target, bytes, true);
  }
  std::memset(target, 0xff, bytes);  // NaN for whoever reads too early
  thread.open_copies.push_back({target, source, bytes, source_bytes, thread.here});
}

void copy_async_commit(ThreadContext& thread) {
  thread.copy_groups.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}

void copy_async_wait(ThreadContext& thread, uint32_t groups_that_may_stay) {
  while (thread.copy_groups.size() > groups_that_may_stay) {
    for (const PendingCopy& copy : thread.copy_groups.front()) land(thread, copy);
    thread.copy_groups.pop_front();
  }
}

// ---- State spaces ----

bool is_in_global(const ThreadContext&, uint64_t address) {
  return is_device_address(reinterpret_cast<const void*>(address));
}

bool is_in_shared(const ThreadContext&, uint64_t address) {
  return is_shared_address(reinterpret_cast<const void*>(address));
}

bool is_in_local(const ThreadContext& thread, uint64_t address) {
  return address - reinterpret_cast<uintptr_t>(thread.stack) < kFiberStackBytes;
}

}  // namespace cuda_emulation
