// A tensor on the tape: a handle to values and, when it takes part in differentiation, to a gradient of the same shape.
// Dense, row-major, rank 1 or 2 (attention reads the packed qkv the projection wrote, so nothing here needs more). It
// owns nothing: memory belongs to the step's arena or to the parameter store.
//
// Parameters and their gradients hold floats, activations and their gradients what the tape says, float or Bf16.
// Whoever asks for the one where the other is gets an Error.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>

#include "core/bf16.h"
#include "core/view.h"

namespace itemloom {

enum class NumberType { kFloat, kBf16 };
template <class T>
inline constexpr NumberType kNumberType = std::is_same_v<T, Bf16> ? NumberType::kBf16 : NumberType::kFloat;

// Where a gradient lives. For activations the tape takes the memory when the first consumer's backward asks for it and
// gives it to another once the producer's backward is done; for parameters it is fixed.
struct Gradient {
  void* data = nullptr;
  int32_t parameter = -1;  // the parameter's index in its store, or -1 for an activation
  uint64_t tape = 0;       // the last tape that has used the parameter
};

class Tensor {
 public:
  // A parameter; `bf16_copy` holds its values for matrix products of that precision, or is nullptr.
  Tensor(float* value, int64_t size, Gradient* gradient, const Bf16* bf16_copy)
      : Tensor(NumberType::kFloat, value, {size, 1}, 1, gradient, bf16_copy) {}
  Tensor(float* value, int64_t rows, int64_t columns, Gradient* gradient, const Bf16* bf16_copy)
      : Tensor(NumberType::kFloat, value, {rows, columns}, 2, gradient, bf16_copy) {}
  // An activation.
  Tensor(NumberType type, void* value, int64_t rows, int64_t columns, Gradient* gradient)
      : Tensor(type, value, {rows, columns}, 2, gradient, nullptr) {}

  NumberType type() const { return type_; }
  int rank() const { return rank_; }
  int64_t rows() const { return extents_[0]; }
  int64_t columns() const { return extents_[1]; }
  int64_t size() const { return extents_[0] * extents_[1]; }
  int64_t bytes() const {
    return size() * (type_ == NumberType::kBf16 ? int64_t{sizeof(Bf16)} : int64_t{sizeof(float)});
  }
  // Whether backward is to compute a gradient for it.
  bool differentiable() const { return gradient_ != nullptr; }
  Gradient* gradient() const { return gradient_; }

  template <class T = float>
  Matrix<T> matrix() const {
    check_rank(2);
    return Matrix<T>(data<T>(), rows(), columns());
  }
  template <class T = float>
  Vector<T> vector() const {
    check_rank(1);
    return Vector<T>(data<T>(), rows());
  }
  template <class T = float>
  Vector<T> flat() const {
    return Vector<T>(data<T>(), size());
  }

  // What a matrix product over T reads: as above, but of a parameter its bf16 copy where T is Bf16.
  template <class T>
  Matrix<const T> factor() const {
    check_rank(2);
    return Matrix<const T>(factor_data<T>(), rows(), columns());
  }
  template <class T>
  Vector<const T> factor_vector() const {
    check_rank(1);
    return Vector<const T>(factor_data<T>(), rows());
  }

  template <class T>
  void check_type() const {
    CHECK(type_ == kNumberType<T>, "a tensor of ", shape(), " holds ", name_of(type_), ", not ",
          name_of(kNumberType<T>));
  }

  // "(27630, 64)", for messages.
  std::string shape() const {
    return rank_ == 1 ? join_message("(", rows(), ")") : join_message("(", rows(), ", ", columns(), ")");
  }

 private:
  Tensor(NumberType type, void* value, std::array<int64_t, 2> extents, int rank, Gradient* gradient,
         const Bf16* bf16_copy)
      : value_(value), extents_(extents), rank_(rank), type_(type), gradient_(gradient), bf16_copy_(bf16_copy) {}

  static const char* name_of(NumberType type) { return type == NumberType::kBf16 ? "bf16" : "float"; }
  void check_rank(int rank) const {
    CHECK(rank_ == rank, "a ", rank == 2 ? "matrix" : "vector", " was expected, not ", shape());
  }
  template <class T>
  T* data() const {
    check_type<T>();
    return static_cast<T*>(value_);
  }
  template <class T>
  const T* factor_data() const {
    if constexpr (std::is_same_v<T, Bf16>) {
      if (bf16_copy_) return bf16_copy_;
    }
    return data<T>();
  }

  void* value_;
  std::array<int64_t, 2> extents_;
  int rank_;
  NumberType type_;
  Gradient* gradient_;
  const Bf16* bf16_copy_;
};

}  // namespace itemloom
