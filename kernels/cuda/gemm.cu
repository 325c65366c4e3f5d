// A product is cuBLASLt's. A sum over nothing, which cuBLASLt does not take, is one thread an element.
#include "kernels/gemm.h"

#include "kernels/cuda/blas.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

namespace itemloom {
namespace cuda_gemm {

constexpr int kThreads = 256;

// c (=|+=) bias, or 0
template <class T>
__global__ void write_bias(const T* bias, Matrix<T> c, bool accumulate) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= c.size()) return;
  const float value = bias ? cuda::load(bias + i % c.columns()) : 0.0f;
  T* to = c.data() + i;
  cuda::store(accumulate ? cuda::load(to) + value : value, to);
}

template <class Operand, class Output>
void multiply(CudaStream stream, const Gemm<Operand, Output>& args) {
  CHECK(!(args.transpose_a && args.transpose_b), "a product of two transposed matrices is not supported");
  const int64_t k = args.transpose_a ? args.a.rows() : args.a.columns();
  if (args.c.size() == 0) return;
  if (k == 0) {
    return cuda::start(stream, "write_bias", write_bias<Output>, cuda::grid(block_count(args.c.size(), kThreads)),
                       kThreads, 0, args.bias.data(), args.c, args.accumulate);
  }
  cuda::multiply<Operand, Output>(stream, {.m = args.c.rows(),
                                           .n = args.c.columns(),
                                           .k = k,
                                           .a = {args.a.data(), args.a.columns(), args.transpose_a},
                                           .b = {args.b.data(), args.b.columns(), args.transpose_b},
                                           .bias = args.bias.data(),
                                           .c = args.c.data(),
                                           .c_stride = args.c.columns(),
                                           .accumulate = args.accumulate,
                                           .tf32 = args.tf32});
}

}  // namespace cuda_gemm

void launch(CudaStream stream, const Gemm<float>& args) {
  cuda_gemm::multiply(stream, args);
}

void launch(CudaStream stream, const Gemm<Bf16>& args) {
  cuda_gemm::multiply(stream, args);
}

void launch(CudaStream stream, const Gemm<Bf16, float>& args) {
  cuda_gemm::multiply(stream, args);
}

}  // namespace itemloom
