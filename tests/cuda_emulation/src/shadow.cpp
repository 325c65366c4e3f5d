#include "shadow.h"

#include <sys/mman.h>

#include <limits>

#include "check.h"
#include "device_memory.h"
#include "internal.h"
#include "shared_memory.h"

namespace cuda_emulation {
namespace {

template <class T>
T* map_lazily(size_t count) {
  void* const address =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) report("internal", "no address space for shadow memory");
  madvise(address, count * sizeof(T), MADV_NOHUGEPAGE);
  return static_cast<T*>(address);
}

ShadowRegion make_region(const unsigned char* begin, size_t bytes, bool is_shared) {
  return {begin, bytes, map_lazily<uint8_t>(bytes), map_lazily<Cell>(bytes / 2), is_shared};
}

const ShadowRegion& device_region() {
  static const ShadowRegion region = make_region(device_space(), device_space_bytes(), false);
  return region;
}

const ShadowRegion& shared_region() {
  static const ShadowRegion region = make_region(shared_window(), shared_window_bytes(), true);
  return region;
}

const SourceLine line_anchor{"", 0, "", 0};

}  // namespace

const ShadowRegion* shadow_region(const void* at) {
  if (device_region().holds(at)) return &device_region();
  if (shared_region().holds(at)) return &shared_region();
  return nullptr;
}

void clear_cells() {
  for (const ShadowRegion* region : {&device_region(), &shared_region()}) {
    madvise(region->cells, region->bytes / 2 * sizeof(Cell), MADV_DONTNEED);
  }
}

int32_t pack_line(const SourceLine* line) {
  if (!line) return 0;
  return static_cast<int32_t>(reinterpret_cast<intptr_t>(line) - reinterpret_cast<intptr_t>(&line_anchor));
}

const SourceLine* unpack_line(int32_t packed) {
  if (packed == 0) return nullptr;
  return reinterpret_cast<const SourceLine*>(reinterpret_cast<intptr_t>(&line_anchor) + packed);
}

void set_region_state(const void* at, size_t bytes, uint8_t state) {
  if (!settings().check || bytes == 0) return;
  const ShadowRegion* const region = shadow_region(at);
  if (!region) return;
  uint8_t* const states = region->states + region->offset(at);
  // A large piece of memory that goes away gives its shadow back too.
  constexpr size_t kLarge = 1 << 20;
  if (state == kUnallocated && bytes >= kLarge) {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(states) + 4095) & ~uintptr_t{4095};
    const uintptr_t end = reinterpret_cast<uintptr_t>(states + bytes) & ~uintptr_t{4095};
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    std::fill(states, reinterpret_cast<uint8_t*>(begin), state);
    std::fill(reinterpret_cast<uint8_t*>(end), states + bytes, state);
    const size_t first_cell = region->offset(at) / 2;
    const uintptr_t cell_begin = (reinterpret_cast<uintptr_t>(region->cells + first_cell) + 4095) & ~uintptr_t{4095};
    const uintptr_t cell_end = reinterpret_cast<uintptr_t>(region->cells + first_cell + bytes / 2) & ~uintptr_t{4095};
    madvise(reinterpret_cast<void*>(cell_begin), cell_end - cell_begin, MADV_DONTNEED);
    return;
  }
  std::fill(states, states + bytes, state);
}

void set_in_flight(const void* at, size_t bytes, bool in_flight) {
  set_region_state(at, bytes, in_flight ? kInFlight : kInitialised);
}

void mark_initialised(const void* address, size_t bytes) {
  set_region_state(address, bytes, kInitialised);
}

void require_initialised(const void* address, size_t bytes, const char* what) {
  if (!settings().check) return;
  const ShadowRegion* const region = shadow_region(address);
  if (!region) return;
  const uint8_t* const states = region->states + region->offset(address);
  for (size_t k = 0; k < bytes; ++k) {
    if (states[k] == kInitialised) continue;
    report("uninitialised read", std::string(what) + " of " + std::to_string(bytes) + " bytes: nobody has written " +
                                     describe_address(static_cast<const char*>(address) + k));
  }
}

void copy_initialised(void* target, const void* source, size_t bytes) {
  if (!settings().check) return;
  const ShadowRegion* const from = shadow_region(source);
  const ShadowRegion* const to = shadow_region(target);
  if (!from || !to) return;
  const uint8_t* const states = from->states + from->offset(source);
  std::copy(states, states + bytes, to->states + to->offset(target));
}

}  // namespace cuda_emulation
