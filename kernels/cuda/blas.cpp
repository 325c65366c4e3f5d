// cuBLASLt thinks in columns: what is stored here row by row is there the transpose, stored column by column. So
// C = op(A) op(B) is asked for as C^T = op(B)^T op(A)^T, where B's memory comes first and no memory is turned.
#include "kernels/cuda/blas.h"

#include <cublasLt.h>

#include <algorithm>
#include <compare>
#include <map>
#include <memory>
#include <type_traits>

#include "core/check.h"
#include "core/cuda/context.h"

namespace itemloom {

// What cuBLASLt's choice of an algorithm depends on.
struct BlasShape {
  int64_t m, n, k, a_stride, b_stride, c_stride;
  uint32_t a_alignment, b_alignment, c_alignment, bias_alignment;  // bias_alignment is 0 without a bias
  bool transpose_a, transpose_b, accumulate, tf32;
  cudaDataType_t operand_type, output_type;

  auto operator<=>(const BlasShape&) const = default;
};

struct BlasAlgorithms {
  std::map<BlasShape, cublasLtMatmulAlgo_t> chosen;
};

namespace cuda {
namespace {

template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Destroy {
  using pointer = Handle;
  void operator()(Handle handle) const { destroy(handle); }
};
template <class Handle, cublasStatus_t (*destroy)(Handle)>
using Owned = std::unique_ptr<Handle, Destroy<Handle, destroy>>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

constexpr char kDescribing[] = "describing a matrix product";

// The largest power of two, up to what the arena promises, that divides the address; 0 for nullptr. More would be luck,
// and a resumed run, whose arena is filled in another way, would choose another algorithm.
uint32_t alignment_of(const void* data) {
  constexpr uintptr_t kMost = kAlignment;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  return static_cast<uint32_t>(data ? std::min(address & -address, kMost) : 0);
}

template <class T>
constexpr cudaDataType_t kDataType = std::is_same_v<T, Bf16> ? CUDA_R_16BF : CUDA_R_32F;

template <class Operand, class Output>
BlasShape shape_of(const MatrixProduct<Operand, Output>& product) {
  return {.m = product.m,
          .n = product.n,
          .k = product.k,
          .a_stride = product.a.stride,
          .b_stride = product.b.stride,
          .c_stride = product.c_stride,
          .a_alignment = alignment_of(product.a.data),
          .b_alignment = alignment_of(product.b.data),
          .c_alignment = alignment_of(product.c),
          .bias_alignment = alignment_of(product.bias),
          .transpose_a = product.a.transpose,
          .transpose_b = product.b.transpose,
          .accumulate = product.accumulate,
          .tf32 = product.tf32,
          .operand_type = kDataType<Operand>,
          .output_type = kDataType<Output>};
}

template <class Value>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, Value value) {
  cublas_check(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value), kDescribing);
}
template <class Value>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  cublas_check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value), kDescribing);
}

template <class T>
Layout make_layout(int64_t rows, int64_t columns, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  cublas_check(cublasLtMatrixLayoutCreate(&layout, kDataType<T>, static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), stride),
               kDescribing);
  return Layout(layout);
}

// The product in cuBLASLt's words: its A is our B.
struct Descriptors {
  template <class Operand, class Output>
  explicit Descriptors(const MatrixProduct<Operand, Output>& product)
      : a(product.b.transpose ? make_layout<Operand>(product.k, product.n, product.b.stride)
                              : make_layout<Operand>(product.n, product.k, product.b.stride)),
        b(product.a.transpose ? make_layout<Operand>(product.m, product.k, product.a.stride)
                              : make_layout<Operand>(product.k, product.m, product.a.stride)),
        c(make_layout<Output>(product.n, product.m, product.c_stride)) {
    cublasLtMatmulDesc_t made = nullptr;
    const cublasComputeType_t compute = product.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublas_check(cublasLtMatmulDescCreate(&made, compute, CUDA_R_32F), kDescribing);
    description.reset(made);
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, int32_t{product.b.transpose ? CUBLAS_OP_T : CUBLAS_OP_N});
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, int32_t{product.a.transpose ? CUBLAS_OP_T : CUBLAS_OP_N});
    if (!product.bias) return;
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_BIAS});
    set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  }

  Description description;
  Layout a, b, c;
};

// Sums that are cut along k are put together from the workspace in a step of their own, whose order is fixed.
cublasLtMatmulAlgo_t choose(CudaContext& context, const BlasShape& shape, const Descriptors& descriptors) {
  cublasLtMatmulPreference_t made = nullptr;
  cublas_check(cublasLtMatmulPreferenceCreate(&made), kDescribing);
  const Preference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{cuda_backend::kBlasWorkspaceBytes});
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.b_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.a_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.c_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.c_alignment);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const auto& [description, a, b, c] = descriptors;
  cublas_check(cublasLtMatmulAlgoGetHeuristic(context.blas(), description.get(), a.get(), b.get(), c.get(), c.get(),
                                              preference.get(), 1, &result, &found),
               "choosing an algorithm for a matrix product");
  CHECK(found == 1 && result.state == CUBLAS_STATUS_SUCCESS, "cuBLAS has no algorithm for a matrix product of ",
        shape.m, " x ", shape.k, " and ", shape.k, " x ", shape.n);
  return result.algo;
}

}  // namespace

template <class Operand, class Output>
void multiply(CudaStream stream, const MatrixProduct<Operand, Output>& product) {
  CHECK(!product.tf32 || (std::is_same_v<Operand, float>), "bf16 numbers are not rounded to TF32");
  CudaContext& context = *stream.context;
  if (!context.blas_algorithms()) context.blas_algorithms() = std::make_shared<BlasAlgorithms>();
  auto& chosen = context.blas_algorithms()->chosen;
  const Descriptors descriptors(product);
  const BlasShape shape = shape_of(product);
  auto place = chosen.find(shape);
  if (place == chosen.end()) place = chosen.emplace(shape, choose(context, shape, descriptors)).first;
  const float one = 1, beta = product.accumulate ? 1 : 0;
  const auto& [description, a, b, c] = descriptors;
  cublas_check(cublasLtMatmul(context.blas(), description.get(), &one, product.b.data, a.get(), product.a.data, b.get(),
                              &beta, product.c, c.get(), product.c, c.get(), &place->second, context.blas_workspace(),
                              cuda_backend::kBlasWorkspaceBytes, context.stream()),
               "multiplying matrices");
  context.after_launch("cublasLtMatmul");
}

template void multiply(CudaStream stream, const MatrixProduct<float, float>& product);
template void multiply(CudaStream stream, const MatrixProduct<Bf16, Bf16>& product);
template void multiply(CudaStream stream, const MatrixProduct<Bf16, float>& product);

}  // namespace cuda
}  // namespace itemloom
