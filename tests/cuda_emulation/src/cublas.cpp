// The part of cuBLAS that multiplies matrices: column-major, C in place.
#include <cublas_v2.h>

#include <algorithm>

#include "cublas_work.h"
#include "handles.h"
#include "internal.h"

using namespace cuda_emulation;

namespace {

constexpr size_t kWorkspaceAlignment = 256;

struct Handle {
  int device;
  cudaStream_t stream = nullptr;
  Workspace workspace;  // the caller's; without one cuBLAS has its own
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
};

SharedHandleTable<Handle, cublasHandle_t>& handles() {
  static auto& all = *new SharedHandleTable<Handle, cublasHandle_t>;
  return all;
}

std::shared_ptr<Handle> find(cublasHandle_t handle) {
  return handles().find(handle);
}

struct Gemm {
  cublasOperation_t transpose_a, transpose_b;
  int m, n, k;
  const void *alpha, *beta;
  const void *a, *b;
  void* c;
  cudaDataType a_type, b_type, c_type;
  int a_leading, b_leading, c_leading;
};

bool is_known_operation(cublasOperation_t operation) {
  return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T || operation == CUBLAS_OP_C;
}

// `rows` x `columns` after the transposition.
Matrix factor(const void* data, cudaDataType type, int rows, int columns, int leading, cublasOperation_t operation) {
  Matrix matrix = {static_cast<std::byte*>(const_cast<void*>(data)), type, rows, columns, 1, leading};
  if (operation != CUBLAS_OP_N) std::swap(matrix.row_step, matrix.column_step);
  return matrix;
}

cublasStatus_t check(const Gemm& gemm, cublasComputeType_t compute) {
  if (gemm.m < 0 || gemm.n < 0 || gemm.k < 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_known_operation(gemm.transpose_a) || !is_known_operation(gemm.transpose_b)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const int a_rows = gemm.transpose_a == CUBLAS_OP_N ? gemm.m : gemm.k;
  const int b_rows = gemm.transpose_b == CUBLAS_OP_N ? gemm.k : gemm.n;
  if (gemm.a_leading < std::max(1, a_rows) || gemm.b_leading < std::max(1, b_rows) ||
      gemm.c_leading < std::max(1, gemm.m) || !gemm.alpha || !gemm.beta) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool is_float = gemm.a_type == CUDA_R_32F;
  const bool types_fit = gemm.a_type == gemm.b_type && (is_float || gemm.a_type == CUDA_R_16BF) &&
                         (gemm.c_type == CUDA_R_32F || (!is_float && gemm.c_type == CUDA_R_16BF));
  const bool compute_fits = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                            (compute == CUBLAS_COMPUTE_32F_FAST_TF32 && is_float);
  return types_fit && compute_fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t run(const char* what, cublasHandle_t handle_number, const Gemm& gemm, cublasComputeType_t compute) {
  const auto handle = find(handle_number);
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (handle->device != current_device()) report("wrong device", std::string(what) + " with another device's handle");
  if (const cublasStatus_t status = check(gemm, compute); status != CUBLAS_STATUS_SUCCESS) return status;
  if (gemm.m == 0 || gemm.n == 0) return CUBLAS_STATUS_SUCCESS;
  MatrixProduct product;
  product.a = factor(gemm.a, gemm.a_type, gemm.m, gemm.k, gemm.a_leading, gemm.transpose_a);
  product.b = factor(gemm.b, gemm.b_type, gemm.k, gemm.n, gemm.b_leading, gemm.transpose_b);
  product.c = factor(gemm.c, gemm.c_type, gemm.m, gemm.n, gemm.c_leading, CUBLAS_OP_N);
  product.d = product.c;
  product.alpha = *static_cast<const float*>(gemm.alpha);
  product.beta = *static_cast<const float*>(gemm.beta);
  product.rounds_to_tf32 =
      compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
      (compute == CUBLAS_COMPUTE_32F && gemm.a_type == CUDA_R_32F && handle->math == CUBLAS_TF32_TENSOR_OP_MATH);
  Workspace workspace = handle->workspace;
  workspace.bytes = std::min(workspace.bytes, size_t(gemm.m) * size_t(gemm.n) * sizeof(float));
  return enqueue_product(handle->stream, what, product, workspace);
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  if (settings().devices == 0) return CUBLAS_STATUS_NOT_INITIALIZED;
  auto object = std::make_shared<Handle>();
  object->device = current_device();
  *handle = handles().add(std::move(object));
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  return handles().remove(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasGetVersion(cublasHandle_t handle, int* version) {
  if (!find(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  *version = CUBLAS_VERSION;
  return CUBLAS_STATUS_SUCCESS;
}

// Takes back the caller's workspace, as in the real library.
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  const auto object = find(handle);
  if (!object) return CUBLAS_STATUS_NOT_INITIALIZED;
  object->stream = stream;
  object->workspace = {};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  const auto object = find(handle);
  if (!object) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment != 0) return CUBLAS_STATUS_INVALID_VALUE;
  require_device_range(workspace, bytes, "cublasSetWorkspace: workspace");
  object->workspace = {workspace, bytes};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  const auto object = find(handle);
  if (!object) return CUBLAS_STATUS_NOT_INITIALIZED;
  constexpr int kModifiers = CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
  const auto base = static_cast<cublasMath_t>(mode & ~kModifiers);
  if (base != CUBLAS_DEFAULT_MATH && base != CUBLAS_PEDANTIC_MATH && base != CUBLAS_TF32_TENSOR_OP_MATH) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  object->math = base;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  const auto object = find(handle);
  if (!object) return CUBLAS_STATUS_NOT_INITIALIZED;
  *mode = object->math;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m,
                           int n, int k, const float* alpha, const float* a, int a_leading, const float* b,
                           int b_leading, const float* beta, float* c, int c_leading) {
  const Gemm gemm = {transpose_a, transpose_b, m,          n,          k,          alpha,     beta,      a,
                     b,           c,           CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, a_leading, b_leading, c_leading};
  return run("cublasSgemm", handle, gemm, CUBLAS_COMPUTE_32F);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m,
                            int n, int k, const void* alpha, const void* a, cudaDataType a_type, int a_leading,
                            const void* b, cudaDataType b_type, int b_leading, const void* beta, void* c,
                            cudaDataType c_type, int c_leading, cublasComputeType_t compute, cublasGemmAlgo_t) {
  const Gemm gemm = {transpose_a, transpose_b, m,      n,      k,      alpha,     beta,      a,
                     b,           c,           a_type, b_type, c_type, a_leading, b_leading, c_leading};
  return run("cublasGemmEx", handle, gemm, compute);
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return status_text(status);
}

}  // extern "C"
