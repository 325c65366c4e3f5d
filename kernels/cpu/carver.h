// Cuts the scratch memory of a launch into pieces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/memory.h"
#include "core/parallel.h"

namespace itemloom {

// Without a block it hands out nothing and only measures.
struct Carver {
  std::byte* memory = nullptr;
  int64_t used = 0;

  template <class T>
  T* take(int64_t count) {
    T* piece = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    used += block_count(count * static_cast<int64_t>(sizeof(T)), kAlignment) * kAlignment;
    return piece;
  }
};

// What `carve(carver)` returns, once its pieces have been measured and their memory taken.
template <class Carve>
auto carve_scratch(Scratch& scratch, const Carve& carve) {
  Carver measure;
  carve(measure);
  Carver carver{scratch.take<std::byte>(measure.used)};
  return carve(carver);
}

}  // namespace itemloom
