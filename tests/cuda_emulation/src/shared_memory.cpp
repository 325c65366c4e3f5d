#include "shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "check.h"

namespace cuda_emulation {
namespace {

constexpr size_t kAddressBytes = (size_t{1} << 32) + 4096;  // whatever a 32-bit address names is shared memory
constexpr size_t kWindowBytes = 8 << 20;                    // what may be used of it
constexpr size_t kDynamicBytes = 256 << 10;                 // more than any device offers to a block
constexpr uint32_t kRedZone = 64;
constexpr unsigned char kRedZoneByte = 0xA5;
constexpr unsigned char kFreshByte = 0xFF;  // NaN in all float types, -1 in integers

const Launch* opened = nullptr;

const SharedVariable& variable(uint32_t k) {
  return opened->module->shared[opened->kernel->shared[k]];
}

uint32_t dynamic_begin() {
  return engine.block.dynamic_shared_offset;
}

bool is_clean(uint32_t begin, uint32_t end) {
  const unsigned char* const window = shared_window();
  return std::all_of(window + begin, window + end, [](unsigned char byte) { return byte == kRedZoneByte; });
}

}  // namespace

unsigned char* shared_window() {
  static unsigned char* const window = [] {
    void* const address = mmap(nullptr, kAddressBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) report("internal", "no address space for shared memory");
    mprotect(address, kWindowBytes, PROT_READ | PROT_WRITE);
    return static_cast<unsigned char*>(address);
  }();
  return window;
}

size_t shared_window_bytes() {
  return kAddressBytes;
}

bool is_shared_address(const void* address) {
  return static_cast<size_t>(static_cast<const unsigned char*>(address) - shared_window()) < kAddressBytes;
}

void open_shared_memory(const Launch& launch) {
  opened = &launch;
  if (launch.module->shared_end + kRedZone > kWindowBytes - kDynamicBytes - kRedZone) {
    report("shared memory", "the static variables of this file do not fit into the emulation's window");
  }
  const uint32_t align = std::max(launch.kernel->dynamic_align, 16u);
  engine.block.dynamic_shared_bytes = launch.dynamic_shared;
  engine.block.dynamic_shared_offset = (static_cast<uint32_t>(kWindowBytes) - launch.dynamic_shared) / align * align;
  engine.block.static_shared_bytes = launch.kernel->static_shared_bytes;
}

void close_shared_memory() {
  for (uint32_t k = 0; k < opened->kernel->shared_count; ++k) {
    set_region_state(shared_window() + variable(k).offset, variable(k).bytes, kUnallocated);
  }
  set_region_state(shared_window() + dynamic_begin(), engine.block.dynamic_shared_bytes, kUnallocated);
  opened = nullptr;
}

void fill_shared_memory() {
  unsigned char* const window = shared_window();
  for (uint32_t k = 0; k < opened->kernel->shared_count; ++k) {
    const SharedVariable& v = variable(k);
    std::memset(window + v.offset - kRedZone, kRedZoneByte, kRedZone);
    std::memset(window + v.offset, kFreshByte, v.bytes);
    std::memset(window + v.offset + v.bytes, kRedZoneByte, kRedZone);
    set_region_state(window + v.offset, v.bytes, kAllocated);
  }
  const uint32_t bytes = engine.block.dynamic_shared_bytes, begin = dynamic_begin();
  std::memset(window + begin - kRedZone, kRedZoneByte, kRedZone);
  std::memset(window + begin, kFreshByte, bytes);
  std::memset(window + begin + bytes, kRedZoneByte, kWindowBytes - begin - bytes);
  set_region_state(window + begin, bytes, kAllocated);
}

void verify_shared_memory() {
  for (uint32_t k = 0; k < opened->kernel->shared_count; ++k) {
    const SharedVariable& v = variable(k);
    if (is_clean(v.offset - kRedZone, v.offset) && is_clean(v.offset + v.bytes, v.offset + v.bytes + kRedZone))
      continue;
    report("out of bounds", "the block wrote past the ends of shared variable '" + std::string(v.name) + "' (" +
                                std::to_string(v.bytes) + " bytes)");
  }
  const uint32_t bytes = engine.block.dynamic_shared_bytes, begin = dynamic_begin();
  if (is_clean(begin - kRedZone, begin) && is_clean(begin + bytes, kWindowBytes)) return;
  report("out of bounds",
         "the block wrote past the ends of its " + std::to_string(bytes) + " bytes of dynamic shared memory");
}

std::string describe_shared_address(const void* address) {
  const int64_t offset = static_cast<const unsigned char*>(address) - shared_window();
  if (opened) {
    for (uint32_t k = 0; k < opened->kernel->shared_count; ++k) {
      const SharedVariable& v = variable(k);
      if (offset < int64_t{v.offset} - kRedZone || offset >= int64_t{v.offset} + v.bytes + kRedZone) continue;
      return "shared variable '" + std::string(v.name) + "' (" + std::to_string(v.bytes) + " bytes), offset " +
             std::to_string(offset - v.offset);
    }
    if (offset >= int64_t{dynamic_begin()} - kRedZone) {
      return "dynamic shared memory (" + std::to_string(engine.block.dynamic_shared_bytes) + " bytes), offset " +
             std::to_string(offset - dynamic_begin());
    }
  }
  return "shared memory that this kernel does not have, address " + std::to_string(offset);
}

}  // namespace cuda_emulation
