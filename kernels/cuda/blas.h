// Matrix products through cuBLASLt, for kernels/cuda's own use.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/device.h"

namespace itemloom::cuda {

// c[i][j] (=|+=) sum_k A[i][k] * B[k][j] + bias[j], as kernels/gemm.h has it, but the rows of what is stored lie
// `stride` apart. m, n and k are at least 1. Sums are fp32 throughout, and the algorithm is a function of everything in
// here but the addresses' upper bits, so a product has the same bits in every run on one kind of GPU.
//
// The bias has the type of C, which is the only one that cublasLtMatmul documents for these types.
template <class Operand, class Output>
struct MatrixProduct {
  struct Factor {
    const Operand* data;
    int64_t stride;
    bool transpose;
  };
  int64_t m, n, k;
  Factor a, b;
  const Output* bias;  // (n), or nullptr
  Output* c;
  int64_t c_stride;
  bool accumulate;
  bool tf32;  // rounds fp32 operands to TF32 first
};
// Of <float, float>, <Bf16, Bf16> and <Bf16, float>.
template <class Operand, class Output>
void multiply(CudaStream stream, const MatrixProduct<Operand, Output>& product);

}  // namespace itemloom::cuda
