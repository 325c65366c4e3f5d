// cuBLASLt's handles, descriptors and their attributes. As in the real library nothing is looked at before the product
// is asked for, except that a value of the wrong size is refused.
#include "cublaslt.h"

#include <cstring>
#include <mutex>

#include "handles.h"
#include "internal.h"

using namespace cuda_emulation;

namespace {

template <class Object, class Handle>
struct LockedTable {
  std::mutex mutex;
  HandleTable<Object, Handle> table;

  static LockedTable& instance() {
    static LockedTable& all = *new LockedTable;
    return all;
  }
  Handle add(Object object) {
    const std::lock_guard lock(mutex);
    return table.add(std::make_shared<Object>(object));
  }
  std::shared_ptr<Object> find(Handle handle) {
    const std::lock_guard lock(mutex);
    return table.find(handle);
  }
  cublasStatus_t remove(Handle handle) {
    const std::lock_guard lock(mutex);
    return table.remove(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
  }
};

using Descriptions = LockedTable<MatmulDescription, cublasLtMatmulDesc_t>;
using Layouts = LockedTable<MatrixLayout, cublasLtMatrixLayout_t>;
using Preferences = LockedTable<MatmulPreference, cublasLtMatmulPreference_t>;
using Handles = LockedTable<LtHandle, cublasLtHandle_t>;

template <class Value>
cublasStatus_t take(Value& value, const void* buffer, size_t bytes) {
  if (!buffer || bytes != sizeof value) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&value, buffer, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

[[noreturn]] void refuse_attribute(const char* of, int attribute) {
  report("not emulated", std::string("attribute ") + std::to_string(attribute) + " of a " + of);
}

}  // namespace

namespace cuda_emulation {

std::shared_ptr<const MatmulDescription> find_description(cublasLtMatmulDesc_t handle) {
  return Descriptions::instance().find(handle);
}

std::shared_ptr<const MatrixLayout> find_layout(cublasLtMatrixLayout_t handle) {
  return Layouts::instance().find(handle);
}

std::shared_ptr<const MatmulPreference> find_preference(cublasLtMatmulPreference_t handle) {
  return Preferences::instance().find(handle);
}

std::shared_ptr<const LtHandle> find_lt_handle(cublasLtHandle_t handle) {
  return Handles::instance().find(handle);
}

}  // namespace cuda_emulation

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  if (settings().devices == 0) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = Handles::instance().add({current_device()});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return Handles::instance().remove(handle) == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_SUCCESS
                                                                     : CUBLAS_STATUS_NOT_INITIALIZED;
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
      return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return "the function requires an architectural feature absent from the device";
    case CUBLAS_STATUS_MAPPING_ERROR:
      return "an access to GPU memory space failed";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "the function failed to launch on the GPU";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "an internal operation failed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the requested functionality is not supported";
    case CUBLAS_STATUS_LICENSE_ERROR:
      return "the license check failed";
  }
  return "unrecognized status";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* handle, cublasComputeType_t compute_type,
                                        cudaDataType_t scale_type) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  MatmulDescription description;
  description.compute_type = compute_type;
  description.scale_type = scale_type;
  *handle = Descriptions::instance().add(description);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t handle) {
  return Descriptions::instance().remove(handle);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle, cublasLtMatmulDescAttributes_t attribute,
                                              const void* buffer, size_t bytes) {
  const auto description = Descriptions::instance().find(handle);
  if (!description) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(description->transpose_a, buffer, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(description->transpose_b, buffer, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(description->epilogue, buffer, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(description->bias, buffer, bytes);
    default:
      refuse_attribute("matrix product", attribute);
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* handle, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading_dimension) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  MatrixLayout layout;
  layout.type = type;
  layout.rows = rows;
  layout.columns = columns;
  layout.leading_dimension = leading_dimension;
  *handle = Layouts::instance().add(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t handle) {
  return Layouts::instance().remove(handle);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* handle) {
  if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = Preferences::instance().add({});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t handle) {
  return Preferences::instance().remove(handle);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* buffer,
                                                    size_t bytes) {
  const auto preference = Preferences::instance().find(handle);
  if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
  uint32_t ignored_mask = 0;  // there is one algorithm, which no mask forbids
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(ignored_mask, buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(preference->workspace_bytes, buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return take(preference->alignment_a, buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return take(preference->alignment_b, buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return take(preference->alignment_c, buffer, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(preference->alignment_d, buffer, bytes);
    default:
      refuse_attribute("preference", attribute);
  }
}

}  // extern "C"
