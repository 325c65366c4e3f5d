// The memory of a step: a bump allocator whose chunks never move. reset() makes everything free at once and keeps the
// memory, so that from the second step on a step allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/device.h"

namespace itemloom {

class Arena {
 public:
  explicit Arena(DeviceKind kind = DeviceKind::kCpu, int64_t chunk_bytes = int64_t{64} << 20);

  // Memory of the device, contents undefined. A count of zero gives a valid, unusable pointer.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(device_.take(count * static_cast<int64_t>(sizeof(T))));
  }
  // Memory of the host, for what the step notes beside its numbers; it counts as none of the device's, the CPU's
  // either.
  template <class T>
  T* take_host(int64_t count) {
    return reinterpret_cast<T*>(host_.take(count * static_cast<int64_t>(sizeof(T))));
  }
  void reset();
  // Takes memory for a step that needs so many bytes of the device at once, before anything is taken from the arena.
  void reserve(int64_t bytes);

  // Bytes of the device handed out since the last reset, and bytes of it held.
  int64_t used() const { return device_.used; }
  int64_t reserved() const;

 private:
  struct Chunks {
    DeviceKind kind;
    int64_t chunk_bytes;
    std::vector<DeviceBlock> blocks = {};
    size_t block = 0;
    int64_t offset = 0, used = 0;

    std::byte* take(int64_t bytes);
    void reset();
  };
  Chunks device_, host_;
};

}  // namespace itemloom
