// D = alpha op(A) op(B) + beta C as cuBLASLt does it, on the CPU: fp32 sums over k in rising order.
#pragma once

#include <library_types.h>

#include <cstddef>
#include <cstdint>

namespace cuda_emulation {

// Element (row, column) lies at row * row_step + column * column_step, in elements. fp32 or bf16.
struct Matrix {
  std::byte* data = nullptr;
  cudaDataType_t type = CUDA_R_32F;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_step = 1;
  int64_t column_step = 0;

  Matrix transposed() const { return {data, type, columns, rows, column_step, row_step}; }
};

// A packed vector; no data for none.
struct Vector {
  std::byte* data = nullptr;
  cudaDataType_t type = CUDA_R_32F;
  int64_t size = 0;
};

struct MatrixProduct {
  Matrix a;  // m x k, transposed already
  Matrix b;  // k x n
  Matrix c;  // m x n, not read when beta is 0
  Matrix d;
  float alpha = 1;
  float beta = 0;
  bool rounds_to_tf32 = false;  // a and b
  Vector bias;                  // m: added to every column of d
};

size_t element_bytes(cudaDataType_t type);

// All memory must be accessible.
void multiply(const MatrixProduct& product);

}  // namespace cuda_emulation
