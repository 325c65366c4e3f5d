// cublasLtMatmul and the choice of its one algorithm.
//
// The emulated algorithm needs what real ones do: the operands aligned as the leading dimensions and the preference let
// it hope for, and, where the preference allows one, a workspace of the size of D.
#include <algorithm>
#include <cstring>

#include "cublaslt.h"
#include "cublaslt_work.h"
#include "internal.h"

using namespace cuda_emulation;

namespace {

struct Problem {
  MatmulDescription description;
  MatrixLayout a, b, c, d;
};

// What is kept in the opaque cublasLtMatmulAlgo_t.
struct Algorithm {
  static constexpr uint64_t kMagic = 0x656D756C61746564;

  uint64_t magic = kMagic;
  uint64_t workspace_bytes = 0;
  uint32_t signature = 0;  // of the types, transposes and the epilogue that it was chosen for
  uint8_t alignment_a = 1, alignment_b = 1, alignment_c = 1, alignment_d = 1;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

constexpr uint32_t kWidestLoad = 16;
constexpr size_t kWorkspaceAlignment = 16;

bool is_known_operation(int32_t operation) {
  return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T || operation == CUBLAS_OP_C;
}

Matrix matrix_of(const MatrixLayout& layout, const void* data) {
  Matrix matrix;
  matrix.data = static_cast<std::byte*>(const_cast<void*>(data));
  matrix.type = layout.type;
  matrix.rows = static_cast<int64_t>(layout.rows);
  matrix.columns = static_cast<int64_t>(layout.columns);
  matrix.column_step = layout.leading_dimension;
  return matrix;
}

cublasStatus_t check_types(const Problem& problem) {
  const MatmulDescription& description = problem.description;
  const bool is_float = problem.a.type == CUDA_R_32F;
  if (problem.a.type != problem.b.type || problem.c.type != problem.d.type) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (!is_float && problem.a.type != CUDA_R_16BF) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (problem.d.type != CUDA_R_32F && (is_float || problem.d.type != CUDA_R_16BF)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (description.scale_type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  switch (description.compute_type) {
    case CUBLAS_COMPUTE_32F:
      return CUBLAS_STATUS_SUCCESS;
    case CUBLAS_COMPUTE_32F_FAST_TF32:
      return is_float ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t check_layout(const MatrixLayout& layout) {
  const bool is_one =
      layout.rows > 0 && layout.columns > 0 && layout.leading_dimension >= static_cast<int64_t>(layout.rows);
  return is_one ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t check_shapes(const Problem& problem) {
  for (const MatrixLayout* layout : {&problem.a, &problem.b, &problem.c, &problem.d}) {
    if (const cublasStatus_t status = check_layout(*layout); status != CUBLAS_STATUS_SUCCESS) return status;
  }
  const MatmulDescription& description = problem.description;
  if (!is_known_operation(description.transpose_a) || !is_known_operation(description.transpose_b)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool turn_a = description.transpose_a != CUBLAS_OP_N, turn_b = description.transpose_b != CUBLAS_OP_N;
  const uint64_t m = turn_a ? problem.a.columns : problem.a.rows, k = turn_a ? problem.a.rows : problem.a.columns;
  const uint64_t n = turn_b ? problem.b.rows : problem.b.columns, k_of_b = turn_b ? problem.b.columns : problem.b.rows;
  const MatrixLayout &c = problem.c, &d = problem.d;
  const bool fit = k == k_of_b && d.rows == m && d.columns == n && c.rows == m && c.columns == n;
  return fit ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t check_epilogue(const Problem& problem) {
  const uint32_t epilogue = problem.description.epilogue;
  const bool is_known = epilogue == CUBLASLT_EPILOGUE_DEFAULT || epilogue == CUBLASLT_EPILOGUE_BIAS;
  return is_known ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t check_problem(const Problem& problem) {
  for (const auto check : {check_types, check_shapes, check_epilogue}) {
    if (const cublasStatus_t status = check(problem); status != CUBLAS_STATUS_SUCCESS) return status;
  }
  return CUBLAS_STATUS_SUCCESS;
}

// False when one of the handles is none.
bool collect(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
             cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, Problem& problem) {
  const auto found = find_description(description);
  const auto layout_a = find_layout(a), layout_b = find_layout(b), layout_c = find_layout(c), layout_d = find_layout(d);
  if (!found || !layout_a || !layout_b || !layout_c || !layout_d) return false;
  problem = {*found, *layout_a, *layout_b, *layout_c, *layout_d};
  return true;
}

uint32_t signature_of(const Problem& problem) {
  uint32_t hash = 2166136261u;
  const MatmulDescription& description = problem.description;
  for (const uint32_t part :
       {uint32_t(description.compute_type), uint32_t(description.transpose_a), uint32_t(description.transpose_b),
        description.epilogue, uint32_t(problem.a.type), uint32_t(problem.d.type)}) {
    hash = (hash ^ part) * 16777619u;
  }
  return hash;
}

// The largest load that every line of the matrix allows, if it begins as the preference says.
uint8_t alignment_of(const MatrixLayout& layout, uint32_t preferred) {
  const uint64_t step = static_cast<uint64_t>(layout.leading_dimension) * element_bytes(layout.type);
  uint32_t alignment = kWidestLoad;
  while (alignment > 1 && (step % alignment != 0 || preferred % alignment != 0)) alignment /= 2;
  return static_cast<uint8_t>(alignment);
}

Algorithm choose(const Problem& problem, const MatmulPreference& preference) {
  Algorithm algorithm;
  const uint64_t wanted = problem.d.rows * problem.d.columns * sizeof(float);
  if (wanted <= preference.workspace_bytes) algorithm.workspace_bytes = wanted;
  algorithm.signature = signature_of(problem);
  algorithm.alignment_a = alignment_of(problem.a, preference.alignment_a);
  algorithm.alignment_b = alignment_of(problem.b, preference.alignment_b);
  algorithm.alignment_c = alignment_of(problem.c, preference.alignment_c);
  algorithm.alignment_d = alignment_of(problem.d, preference.alignment_d);
  return algorithm;
}

bool is_aligned(const void* data, size_t alignment) {
  return reinterpret_cast<uintptr_t>(data) % alignment == 0;
}

struct Operands {
  const void *a, *b, *c, *d;
};

// The algorithm that the caller gives, if it fits what the product is called with.
cublasStatus_t take_algorithm(const Problem& problem, const cublasLtMatmulAlgo_t* given, const Operands& operands,
                              size_t workspace_bytes, Algorithm& algorithm) {
  if (!given) report("not emulated", "cublasLtMatmul without an algorithm");
  std::memcpy(static_cast<void*>(&algorithm), given, sizeof algorithm);
  if (algorithm.magic != Algorithm::kMagic || algorithm.signature != signature_of(problem) ||
      algorithm.workspace_bytes > workspace_bytes) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool fits = is_aligned(operands.a, algorithm.alignment_a) && is_aligned(operands.b, algorithm.alignment_b) &&
                    is_aligned(operands.c, algorithm.alignment_c) && is_aligned(operands.d, algorithm.alignment_d);
  return fits ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

MatrixProduct product_of(const Problem& problem, const Operands& operands) {
  const MatmulDescription& description = problem.description;
  MatrixProduct product;
  product.a = matrix_of(problem.a, operands.a);
  product.b = matrix_of(problem.b, operands.b);
  if (description.transpose_a != CUBLAS_OP_N) product.a = product.a.transposed();
  if (description.transpose_b != CUBLAS_OP_N) product.b = product.b.transposed();
  product.c = matrix_of(problem.c, operands.c);
  product.d = matrix_of(problem.d, operands.d);
  product.rounds_to_tf32 = description.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (description.epilogue == CUBLASLT_EPILOGUE_BIAS) {
    product.bias = {description.bias, problem.d.type, product.d.rows};
  }
  return product;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference_handle, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
  if (!find_lt_handle(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (requested <= 0 || !results || !returned) return CUBLAS_STATUS_INVALID_VALUE;
  *returned = 0;
  const auto preference = find_preference(preference_handle);
  Problem problem;
  if (!preference || !collect(description, a, b, c, d, problem)) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check_problem(problem); status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm algorithm = choose(problem, *preference);
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* given, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  const auto lt = find_lt_handle(handle);
  if (!lt) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (lt->device != current_device()) report("wrong device", "cublasLtMatmul with the handle of another device");
  Problem problem;
  if (!collect(description, a_layout, b_layout, c_layout, d_layout, problem)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!alpha || !beta || !a || !b || !d) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = check_problem(problem); status != CUBLAS_STATUS_SUCCESS) return status;
  const Operands operands = {a, b, c, d};
  MatrixProduct product = product_of(problem, operands);
  product.alpha = *static_cast<const float*>(alpha);
  product.beta = *static_cast<const float*>(beta);
  if (product.beta != 0 && !c) return CUBLAS_STATUS_INVALID_VALUE;
  if (problem.description.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !problem.description.bias) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (workspace_bytes > 0 && (!workspace || !is_aligned(workspace, kWorkspaceAlignment))) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  Algorithm algorithm;
  const cublasStatus_t status = take_algorithm(problem, given, operands, workspace_bytes, algorithm);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  return enqueue_product(stream, product, {workspace, algorithm.workspace_bytes});
}

}  // extern "C"
