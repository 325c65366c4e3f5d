#include "device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "check.h"
#include "engine.h"
#include "fault.h"
#include "fiber.h"
#include "internal.h"
#include "shared_memory.h"

namespace cuda_emulation {
namespace {

constexpr size_t kSpaceBytes = size_t{64} << 30;
constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;  // what cudaMalloc promises
constexpr unsigned char kCanaryByte = 0xA5;
constexpr unsigned char kFreshByte = 0xFF;  // NaN in all float types, -1 in integers

struct Allocation {
  unsigned char* begin;
  size_t bytes;
  unsigned char* pages;  // what is mapped: [pages, pages + page_bytes)
  size_t page_bytes;
  int number;
  int device;
};

struct Memory {
  std::mutex mutex;
  std::map<const unsigned char*, Allocation> live;
  std::map<const unsigned char*, Allocation> freed;  // for the words of reports
  size_t top = kPage;
  int allocations = 0;
  std::map<int, size_t> in_use;
  int accesses = 0;  // DeviceAccess objects that live
};

// Never destroyed: other static objects may free device memory when the process ends.
Memory& memory() {
  static Memory& all = *new Memory;
  return all;
}

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void protect(const Allocation& allocation, bool open) {
  mprotect(allocation.pages, allocation.page_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

const Allocation* find_in(const std::map<const unsigned char*, Allocation>& allocations, const void* address) {
  const unsigned char* const at = static_cast<const unsigned char*>(address);
  auto next = allocations.upper_bound(at);
  if (next == allocations.begin()) return nullptr;
  const Allocation& found = std::prev(next)->second;
  return at < found.begin + found.bytes ? &found : nullptr;
}

std::string name_of(const Allocation& allocation) {
  return "device allocation " + std::to_string(allocation.number) + " (" + std::to_string(allocation.bytes) + " bytes)";
}

// The canaries before the allocation that are worth a look; those after it reach to the guard page.
size_t canaries_before(const Allocation& allocation) {
  return std::min(static_cast<size_t>(allocation.begin - allocation.pages), kAlignment);
}

bool has_clean_canaries(const Allocation& allocation) {
  const auto clean = [](unsigned char byte) { return byte == kCanaryByte; };
  return std::all_of(allocation.begin - canaries_before(allocation), allocation.begin, clean) &&
         std::all_of(allocation.begin + allocation.bytes, allocation.pages + allocation.page_bytes, clean);
}

std::string describe_device_address(const unsigned char* at) {
  Memory& all = memory();
  if (const Allocation* found = find_in(all.live, at)) {
    return name_of(*found) + ", offset " + std::to_string(at - found->begin);
  }
  if (const Allocation* found = find_in(all.freed, at)) {
    return "freed " + name_of(*found) + ", offset " + std::to_string(at - found->begin);
  }
  auto next = all.live.upper_bound(at);
  if (next != all.live.begin()) {
    const Allocation& before = std::prev(next)->second;
    const ptrdiff_t past = at - (before.begin + before.bytes);
    if (past < static_cast<ptrdiff_t>(2 * kPage)) {
      return std::to_string(past) + " bytes past the end of " + name_of(before);
    }
  }
  if (next != all.live.end() && next->second.begin - at < static_cast<ptrdiff_t>(2 * kPage)) {
    return std::to_string(next->second.begin - at) + " bytes before " + name_of(next->second);
  }
  return "device memory that was never allocated";
}

}  // namespace

unsigned char* device_space() {
  static unsigned char* const space = [] {
    void* const address = mmap(nullptr, kSpaceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) report("internal", "no address space for the memory of the devices");
    return static_cast<unsigned char*>(address);
  }();
  return space;
}

size_t device_space_bytes() {
  return kSpaceBytes;
}

bool is_device_address(const void* address) {
  return static_cast<size_t>(static_cast<const unsigned char*>(address) - device_space()) < kSpaceBytes;
}

void* device_allocate(size_t bytes, int device) {
  watch_faults();
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  const size_t data = round_up(std::max<size_t>(bytes, 1), kAlignment), page_bytes = round_up(data, kPage);
  if (bytes > settings().device_bytes || all.in_use[device] + bytes > settings().device_bytes) return nullptr;
  if (all.top + page_bytes + 2 * kPage > kSpaceBytes) {
    report("internal", "the address space of the devices is used up; freed addresses are never used again");
  }
  Allocation allocation{nullptr, bytes, device_space() + all.top, page_bytes, ++all.allocations, device};
  allocation.begin = allocation.pages + page_bytes - data;
  all.top += page_bytes + kPage;
  protect(allocation, true);
  std::memset(allocation.pages, kCanaryByte, static_cast<size_t>(allocation.begin - allocation.pages));
  std::memset(allocation.begin, kFreshByte, bytes);
  std::memset(allocation.begin + bytes, kCanaryByte, data - bytes);
  set_region_state(allocation.begin, bytes, kAllocated);
  if (settings().host_protect && all.accesses == 0) protect(allocation, false);
  all.live[allocation.begin] = allocation;
  all.in_use[device] += bytes;
  return allocation.begin;
}

bool device_free(void* address) {
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  const auto found = all.live.find(static_cast<unsigned char*>(address));
  if (found == all.live.end()) return false;
  const Allocation allocation = found->second;
  all.live.erase(found);
  all.in_use[allocation.device] -= allocation.bytes;
  set_region_state(allocation.begin, allocation.bytes, kUnallocated);
  madvise(allocation.pages, allocation.page_bytes, MADV_DONTNEED);
  protect(allocation, false);
  all.freed[allocation.begin] = allocation;
  return true;
}

size_t device_bytes_in_use(int device) {
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  return all.in_use[device];
}

int device_of(const void* address) {
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  const Allocation* const found = find_in(all.live, address);
  return found ? found->device : -1;
}

size_t device_allocation_bytes(const void* address, void** begin) {
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  const Allocation* const found = find_in(all.live, address);
  if (found && begin) *begin = found->begin;
  return found ? found->bytes : 0;
}

std::string describe_address(const void* address) {
  const unsigned char* const at = static_cast<const unsigned char*>(address);
  if (is_device_address(at)) {
    const std::lock_guard lock(memory().mutex);
    return describe_device_address(at);
  }
  if (is_shared_address(at)) return describe_shared_address(at);
  bool in_guard = false;
  const int fiber = fiber_of_address(at, &in_guard);
  if (fiber >= 0) {
    return std::string(in_guard ? "beyond the stack" : "the local memory") + " of thread " + std::to_string(fiber);
  }
  char text[40];
  std::snprintf(text, sizeof text, "host address %p", address);
  return text;
}

void require_device_range(const void* address, size_t bytes, const char* what) {
  if (bytes == 0) return;
  void* begin = nullptr;
  const size_t allocated = device_allocation_bytes(address, &begin);
  const size_t offset = static_cast<size_t>(static_cast<const char*>(address) - static_cast<char*>(begin));
  if (allocated > 0 && bytes <= allocated - offset) return;
  report("out of bounds",
         std::string(what) + " of " + std::to_string(bytes) + " bytes at " + describe_address(address));
}

void verify_canaries(const char* kernel) {
  if (settings().check) return;  // there every access was judged
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  for (const auto& [begin, allocation] : all.live) {
    if (has_clean_canaries(allocation)) continue;
    report("out of bounds", "kernel " + std::string(kernel) + " wrote past the ends of " + name_of(allocation));
  }
}

DeviceAccess::DeviceAccess() {
  if (!settings().host_protect) return;
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  if (all.accesses++ > 0) return;
  for (const auto& [begin, allocation] : all.live) protect(allocation, true);
}

DeviceAccess::~DeviceAccess() {
  if (!settings().host_protect) return;
  Memory& all = memory();
  const std::lock_guard lock(all.mutex);
  if (--all.accesses > 0) return;
  for (const auto& [begin, allocation] : all.live) protect(allocation, false);
}

}  // namespace cuda_emulation
