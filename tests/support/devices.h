// Runs kernels on every device that the build has, from buffers of the host, so that a kernel's test has one body.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/view.h"
#include "tests/support/cpu_paths.h"

namespace itemloom::test {

// Converts to any field of an argument struct, to count them.
struct Anything {
  template <class T>
  operator T() const;  // never defined: only the type is asked for
};

template <class Struct, size_t... Index>
constexpr bool has_fields(std::index_sequence<Index...>) {
  return requires {
    Struct{(static_cast<void>(Index), Anything())...};
  };
}

template <class Struct, size_t Count = 16>
constexpr size_t field_count() {
  if constexpr (Count == 0 || has_fields<Struct>(std::make_index_sequence<Count>())) {
    return Count;
  } else {
    return field_count<Struct, Count - 1>();
  }
}

// visit(field) for every field of a kernel's argument struct, in order.
template <class Struct, class Visit>
void for_each_field(Struct& object, Visit visit) {
  constexpr size_t kFields = field_count<Struct>();
  static_assert(kFields >= 2 && kFields <= 14, "add a line here for argument structs of this many fields");
  auto each = [&](auto&... fields) { (visit(fields), ...); };
  if constexpr (kFields == 2) {
    auto& [a, b] = object;
    each(a, b);
  } else if constexpr (kFields == 3) {
    auto& [a, b, c] = object;
    each(a, b, c);
  } else if constexpr (kFields == 4) {
    auto& [a, b, c, d] = object;
    each(a, b, c, d);
  } else if constexpr (kFields == 5) {
    auto& [a, b, c, d, e] = object;
    each(a, b, c, d, e);
  } else if constexpr (kFields == 6) {
    auto& [a, b, c, d, e, f] = object;
    each(a, b, c, d, e, f);
  } else if constexpr (kFields == 7) {
    auto& [a, b, c, d, e, f, g] = object;
    each(a, b, c, d, e, f, g);
  } else if constexpr (kFields == 8) {
    auto& [a, b, c, d, e, f, g, h] = object;
    each(a, b, c, d, e, f, g, h);
  } else if constexpr (kFields == 9) {
    auto& [a, b, c, d, e, f, g, h, i] = object;
    each(a, b, c, d, e, f, g, h, i);
  } else if constexpr (kFields == 10) {
    auto& [a, b, c, d, e, f, g, h, i, j] = object;
    each(a, b, c, d, e, f, g, h, i, j);
  } else if constexpr (kFields == 11) {
    auto& [a, b, c, d, e, f, g, h, i, j, k] = object;
    each(a, b, c, d, e, f, g, h, i, j, k);
  } else if constexpr (kFields == 12) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l] = object;
    each(a, b, c, d, e, f, g, h, i, j, k, l);
  } else if constexpr (kFields == 13) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = object;
    each(a, b, c, d, e, f, g, h, i, j, k, l, m);
  } else {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = object;
    each(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
  }
}

// Copies of host buffers in the memory of a device, each of exactly its size and as far from a cache line as the
// original, so that a kernel which assumes alignment or writes behind the end is found out.
class Mirror {
 public:
  explicit Mirror(Device& device) : device_(device) {}

  template <class T, int Rank>
  void move_in(View<T, Rank>& view) {
    if (!view) return;
    using Element = std::remove_const_t<T>;
    Element* host = const_cast<Element*>(view.data());
    const int64_t skew = static_cast<int64_t>(reinterpret_cast<uintptr_t>(host) % kAlignment);
    const int64_t bytes = view.size() * static_cast<int64_t>(sizeof(T));
    auto [place, is_new] = copies_.try_emplace(host);
    Copy& copy = place->second;
    if (is_new) {
      copy.block = device_.allocate(skew + bytes);
      copy.data = copy.block.data() + skew;
      copy.bytes = bytes;
      device_.copy_from_host(reinterpret_cast<const std::byte*>(host), copy.data, bytes);
    }
    copy.written = copy.written || !std::is_const_v<T>;
    view = at(reinterpret_cast<T*>(copy.data), view, std::make_index_sequence<static_cast<size_t>(Rank)>());
  }
  void move_in(const auto&) {}  // numbers stay as they are

  void move_out() {
    for (auto& [host, copy] : copies_) {
      if (copy.written) device_.copy_to_host(copy.data, static_cast<std::byte*>(host), copy.bytes);
    }
  }

 private:
  struct Copy {
    DeviceBlock block;
    std::byte* data = nullptr;
    int64_t bytes = 0;
    bool written = false;
  };
  template <class T, int Rank, size_t... Axis>
  static View<T, Rank> at(T* data, const View<T, Rank>& like, std::index_sequence<Axis...>) {
    return View<T, Rank>(data, like.extent(static_cast<int>(Axis))...);
  }

  Device& device_;
  std::map<void*, Copy> copies_;
};

// run() for views of host memory, wherever the device's memory is.
template <class Arguments>
void run_from_host(Device& device, Arguments arguments) {
  Mirror mirror(device);
  if (device.kind() == DeviceKind::kCuda) {
    for_each_field(arguments, [&](auto& field) { mirror.move_in(field); });
  }
  run(device, arguments);
  mirror.move_out();
}

// What a test uses on a CPU, and on a GPU, where it should have less to do because an emulation may execute it.
template <class T>
T by_device(const Device& device, T on_cpu, T on_gpu) {
  return device.kind() == DeviceKind::kCpu ? on_cpu : on_gpu;
}

// The numbers of threads with which a launch is repeated to see that its bits stay. A GPU has no such number: it only
// runs again.
inline std::vector<int> thread_counts(const Device& device) {
  return by_device<std::vector<int>>(device, {1, 2, 3}, {1, 1});
}

// Runs a test body with every device: the CPU once for each instruction set, and the GPU in a build with CUDA.
template <class Body>
void on_every_device(Body body) {
  on_every_cpu_path([&] {
    Device device;
    body(device);
  });
#ifdef ITEMLOOM_CUDA
  Device device(DeviceKind::kCuda);
  body(device);
#endif
}

}  // namespace itemloom::test
