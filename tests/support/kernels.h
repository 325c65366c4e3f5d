// Buffers with guarded ends and comparisons for kernel tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>
#include "tests/support/catch.h"

#include "core/device.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/view.h"

namespace itemloom::test {

// `count` elements between two cache lines of sentinel bytes. intact() tells whether a kernel wrote outside. The data
// starts `offset` elements after a cache line, so that a kernel which assumes alignment fails.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count, int64_t offset = 0)
      : count_(count),
        offset_(offset),
        storage_(static_cast<size_t>((count + offset) * sizeof(T) + 3 * kGuard), kSentinel) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    begin_ = kGuard + (64 - address % 64) % 64 + static_cast<size_t>(offset) * sizeof(T);
    std::fill(begin(), end(), T());
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return reinterpret_cast<T*>(storage_.data() + begin_); }
  int64_t size() const { return count_; }
  T& operator[](int64_t index) { return data()[index]; }
  T* begin() { return data(); }
  T* end() { return data() + count_; }
  Vector<T> vector() { return Vector<T>(data(), count_); }
  Matrix<T> matrix(int64_t rows, int64_t columns) {
    REQUIRE(rows * columns == count_);
    return Matrix<T>(data(), rows, columns);
  }
  std::vector<T> copy() { return std::vector<T>(begin(), end()); }
  bool intact() const {
    for (size_t i = 0; i < storage_.size(); ++i) {
      const bool inside = i >= begin_ && i < begin_ + static_cast<size_t>(count_) * sizeof(T);
      if (!inside && storage_[i] != kSentinel) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 128;
  static constexpr unsigned char kSentinel = 0xA5;
  int64_t count_, offset_;
  std::vector<unsigned char> storage_;
  size_t begin_ = 0;
};

// Uniform in [low, high), a function of (seed, index).
inline float random_float(uint64_t seed, int64_t index, float low = -1, float high = 1) {
  const PhiloxBlock block = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return low + (high - low) * uniform_from(block[0]);
}
inline int64_t random_int(uint64_t seed, int64_t index, int64_t below) {
  const PhiloxBlock block = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 1, 0},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return static_cast<int64_t>((uint64_t{block[0]} << 20 ^ block[1]) % static_cast<uint64_t>(below));
}
template <class Range>
void fill_random(Range&& range, uint64_t seed, float low = -1, float high = 1) {
  int64_t index = 0;
  for (float& value : range) value = random_float(seed, index++, low, high);
}

// The greatest |actual - expected| over the greatest of (|expected|, floor).
template <class Actual, class Expected>
double worst_error(const Actual& actual, const Expected& expected, double floor = 1.0) {
  double worst = 0;
  auto reference = std::begin(expected);
  for (auto value = std::begin(actual); value != std::end(actual); ++value, ++reference) {
    const double error = std::abs(double(*value) - double(*reference)) / std::max(std::abs(double(*reference)), floor);
    if (!(error <= worst)) worst = error;  // a NaN is the worst of all and stays
    if (std::isnan(error)) return error;
  }
  return worst;
}

template <class A, class B>
bool same_bits(const A& a, const B& b) {
  if (std::size(a) != std::size(b)) return false;
  return std::size(a) == 0 || std::memcmp(std::data(a), std::data(b), std::size(a) * sizeof(*std::data(a))) == 0;
}

// Sets the thread count for a scope.
class Threads {
 public:
  explicit Threads(int count) : before_(thread_count()) { set_thread_count(count); }
  ~Threads() { set_thread_count(before_); }
  Threads(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace itemloom::test
