// The objects behind cuBLASLt's handles.
#pragma once

#include <cublasLt.h>

#include <memory>

namespace cuda_emulation {

struct MatmulDescription {
  cublasComputeType_t compute_type = CUBLAS_COMPUTE_32F;
  cudaDataType_t scale_type = CUDA_R_32F;
  int32_t transpose_a = CUBLAS_OP_N;
  int32_t transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  std::byte* bias = nullptr;
};

struct MatrixLayout {
  cudaDataType_t type = CUDA_R_32F;
  uint64_t rows = 0;
  uint64_t columns = 0;
  int64_t leading_dimension = 0;
};

struct MatmulPreference {
  uint64_t workspace_bytes = 0;
  uint32_t alignment_a = 256;
  uint32_t alignment_b = 256;
  uint32_t alignment_c = 256;
  uint32_t alignment_d = 256;
};

struct LtHandle {
  int device;
};

// nullptr for what is not a handle (any more).
std::shared_ptr<const MatmulDescription> find_description(cublasLtMatmulDesc_t handle);
std::shared_ptr<const MatrixLayout> find_layout(cublasLtMatrixLayout_t handle);
std::shared_ptr<const MatmulPreference> find_preference(cublasLtMatmulPreference_t handle);
std::shared_ptr<const LtHandle> find_lt_handle(cublasLtHandle_t handle);

}  // namespace cuda_emulation
