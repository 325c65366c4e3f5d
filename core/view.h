// Views: a pointer and its extents, dense and row-major, owning nothing. All of it is constexpr, which is what lets
// device code use it, too.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "core/check.h"

namespace itemloom {

// Rank 1 to 4. There is no default constructor: a kernel's argument struct in which a view was forgotten does not
// compile. A view that a kernel documents as optional is given as none().
template <class T, int Rank>
class View {
 public:
  template <class... Extents>
  requires(sizeof...(Extents) == Rank) constexpr View(T* data, Extents... extents)
      : data_(data), extents_{static_cast<int64_t>(extents)...} {}

  // View<float, 2> converts to View<const float, 2>.
  template <class U>
  requires(std::is_same_v<const U, T>) constexpr View(const View<U, Rank>& other)
      : data_(other.data()), extents_(other.extents()) {}

  static constexpr View none() { return View(); }
  explicit constexpr operator bool() const { return data_ != nullptr; }

  constexpr T* data() const { return data_; }
  constexpr const std::array<int64_t, Rank>& extents() const { return extents_; }
  constexpr int64_t extent(int axis) const { return extents_[axis]; }
  constexpr int64_t size() const {
    int64_t count = 1;
    for (int64_t extent : extents_) count *= extent;
    return count;
  }

  constexpr int64_t rows() const requires(Rank == 2) { return extents_[0]; }
  constexpr int64_t columns() const requires(Rank == 2) { return extents_[1]; }
  constexpr T* row(int64_t index) const requires(Rank == 2) { return data_ + index * extents_[1]; }
  // Rows [begin, begin + count) of a matrix.
  constexpr View slice(int64_t begin, int64_t count) const requires(Rank == 2) {
    return View(data_ + begin * extents_[1], count, extents_[1]);
  }
  constexpr View slice(int64_t begin, int64_t count) const requires(Rank == 1) { return View(data_ + begin, count); }
  constexpr T& operator[](int64_t index) const requires(Rank == 1) { return data_[index]; }
  constexpr T* begin() const { return data_; }
  constexpr T* end() const { return data_ + size(); }

 private:
  constexpr View() : data_(nullptr), extents_{} {}

  T* data_;
  std::array<int64_t, Rank> extents_;
};

// Places [begin, end) of something flat.
struct FlatRange {
  int64_t begin;
  int64_t end;
  int64_t size() const { return end - begin; }
};

template <class T>
using Vector = View<T, 1>;
template <class T>
using Matrix = View<T, 2>;

}  // namespace itemloom
