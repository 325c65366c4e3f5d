// Host memory that is touched once and then kept.
//
// The first touch of a page costs as much as several microseconds on some machines, so whatever a training step needs
// is taken in large pieces, on huge pages where the kernel grants them, touched at once and reused for ever.
#pragma once

#include <cstddef>
#include <cstdint>

namespace itemloom {

// Every piece handed out starts on a cache line, which is also the widest vector.
inline constexpr int64_t kAlignment = 64;

// The least multiple that is not below the value.
constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A zeroed, page-aligned block, released at the end of its life. Throws Error naming the size when memory is out.
class HostBlock {
 public:
  HostBlock() = default;
  explicit HostBlock(int64_t bytes);
  HostBlock(HostBlock&& other) noexcept;
  HostBlock& operator=(HostBlock&& other) noexcept;
  ~HostBlock();

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Working memory of one kernel launch: grows when a launch asks for more than any before it, and is never given back.
class Scratch {
 public:
  // A piece of at least `count` elements, contents undefined, valid until the next call.
  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // Takes so much, unless there is as much already.
  void reserve(int64_t bytes);
  int64_t bytes() const { return block_.bytes(); }

 private:
  std::byte* take_bytes(int64_t bytes);
  HostBlock block_;
};

}  // namespace itemloom
