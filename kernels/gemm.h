// Matrix products: C = op(A) op(B) [+ bias], or C += the same.
//
//   c[i][j] (=|+=) sum_k A[i][k] * B[k][j] + bias[j]
//
// where A is a (m, k), or its transpose when `transpose_a` and a is stored (k, m); likewise B is (k, n), or stored
// (n, k) when `transpose_b`. The layers use: forward y = x W^T (transpose_b), input gradient dx += dy W (neither),
// weight gradient dW += dy^T x (transpose_a). Both at once is refused with an Error: nothing needs it.
//
// Guarantees: fp32 accumulation in an order that depends on k (and, for transpose_a, on k alone as well) only: the
// same bits for any number of threads, and for transpose_a == false a row of C has the same bits whatever other rows
// are in the call. On CUDA cuBLASLt chooses an algorithm by the extents and the alignment of the operands: the same
// call has the same bits in every run on one kind of GPU, and no more than that.
// Extents of zero are fine (k == 0 gives bias or 0). C must not overlap A or B.
//
// Bf16 operands are multiplied exactly; a bf16 C is rounded once, after everything was added to the fp32 sum. With tf32
// (fp32 operands, CUDA only) operands are rounded to 10 bits of fraction first.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/view.h"

namespace itemloom {

template <class Operand, class Output = Operand>
struct Gemm {
  Matrix<const Operand> a;
  bool transpose_a;
  Matrix<const Operand> b;
  bool transpose_b;
  Vector<const Output> bias;  // (n), or none()
  Matrix<Output> c;           // (m, n)
  bool accumulate;            // true: added into; false: overwritten
  bool tf32 = false;
};
void launch(CpuStream stream, const Gemm<float>& args);
int64_t scratch_bytes(CpuStream stream, const Gemm<float>& args);
void launch(CudaStream stream, const Gemm<float>& args);
void launch(CudaStream stream, const Gemm<Bf16>& args);
void launch(CudaStream stream, const Gemm<Bf16, float>& args);

}  // namespace itemloom
