// A tensor on the tape: a handle to values and, when it takes part in differentiation, to a gradient of the same shape.
// Dense, row-major, rank 1 or 2 (attention reads the packed qkv the projection wrote, so nothing here needs more). It
// owns nothing: memory belongs to the step's arena or to the parameter store.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/view.h"

namespace itemloom {

// Where a gradient lives. For activations the tape takes the memory when the first consumer's backward asks for it and
// gives it to another once the producer's backward is done; for parameters it is fixed.
struct Gradient {
  float* data = nullptr;
  int32_t parameter = -1;  // the parameter's index in its store, or -1 for an activation
  uint64_t tape = 0;       // the last tape that has used the parameter
};

class Tensor {
 public:
  Tensor(float* value, int64_t size, Gradient* gradient)
      : value_(value), extents_{size, 1}, rank_(1), gradient_(gradient) {}
  Tensor(float* value, int64_t rows, int64_t columns, Gradient* gradient)
      : value_(value), extents_{rows, columns}, rank_(2), gradient_(gradient) {}

  int rank() const { return rank_; }
  int64_t rows() const { return extents_[0]; }
  int64_t columns() const { return extents_[1]; }
  int64_t size() const { return extents_[0] * extents_[1]; }
  // Whether backward is to compute a gradient for it.
  bool differentiable() const { return gradient_ != nullptr; }
  Gradient* gradient() const { return gradient_; }

  Matrix<float> matrix() const {
    CHECK(rank_ == 2, "a matrix was expected, not a vector of ", rows());
    return Matrix<float>(value_, rows(), columns());
  }
  Vector<float> vector() const {
    CHECK(rank_ == 1, "a vector was expected, not a matrix of ", shape());
    return Vector<float>(value_, rows());
  }
  Vector<float> flat() const { return Vector<float>(value_, size()); }

  // "(27630, 64)", for messages.
  std::string shape() const {
    return rank_ == 1 ? join_message("(", rows(), ")") : join_message("(", rows(), ", ", columns(), ")");
  }

 private:
  float* value_;
  std::array<int64_t, 2> extents_;
  int rank_;
  Gradient* gradient_;
};

}  // namespace itemloom
