// Matrix products through cuBLASLt, for kernels/cuda's own use.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace itemloom::cuda {

// c[i][j] (=|+=) sum_k A[i][k] * B[k][j] + bias[j], as kernels/gemm.h has it, but the rows of what is stored lie
// `stride` apart. m, n and k are at least 1. Products and sums are fp32 throughout (no TF32), and the algorithm is a
// function of everything in here but the addresses' upper bits, so a product has the same bits in every run on one kind
// of GPU.
struct MatrixProduct {
  struct Operand {
    const float* data;
    int64_t stride;
    bool transpose;
  };
  int64_t m, n, k;
  Operand a, b;
  const float* bias;  // (n), or nullptr
  float* c;
  int64_t c_stride;
  bool accumulate;
};
void multiply(CudaStream stream, const MatrixProduct& product);

}  // namespace itemloom::cuda
