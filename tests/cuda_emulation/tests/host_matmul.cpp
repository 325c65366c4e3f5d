// cuBLASLt: values against a naive product in double precision, what is refused, what is reported.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "host_test.h"

using namespace host_test;

namespace {

#define EXPECT_CUBLAS(call) EXPECT((call) == CUBLAS_STATUS_SUCCESS)

constexpr size_t kWorkspaceBytes = 1 << 20;

float value_at(size_t index, int seed) {
  return static_cast<float>((index * 7919 + static_cast<size_t>(seed) * 104729) % 2003) / 1001.f - 1.f;
}

// A matrix in device memory as cuBLASLt sees it, and its values. Gaps between its columns are not initialised.
struct TestMatrix {
  size_t rows, columns, leading;
  cudaDataType_t type;
  std::vector<float> values;  // by columns, as rounded to the type
  void* device = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;

  TestMatrix(size_t rows, size_t columns, cudaDataType_t type, int seed, size_t padding = 0)
      : rows(rows), columns(columns), leading(rows + padding), type(type), values(rows * columns) {
    for (size_t index = 0; index < values.size(); ++index) {
      values[index] = value_at(index, seed);
      if (type == CUDA_R_16BF) values[index] = __bfloat162float(__float2bfloat16(values[index]));
    }
    EXPECT_CUDA(cudaMalloc(&device, columns * leading * element_bytes()));
    upload();
    EXPECT_CUBLAS(cublasLtMatrixLayoutCreate(&layout, type, rows, columns, static_cast<int64_t>(leading)));
  }

  ~TestMatrix() {
    EXPECT_CUBLAS(cublasLtMatrixLayoutDestroy(layout));
    EXPECT_CUDA(cudaFree(device));
  }
  TestMatrix(const TestMatrix&) = delete;
  TestMatrix& operator=(const TestMatrix&) = delete;

  // Another layout of the same memory.
  void describe(size_t rows, size_t columns, size_t leading) {
    EXPECT_CUBLAS(cublasLtMatrixLayoutDestroy(layout));
    EXPECT_CUBLAS(cublasLtMatrixLayoutCreate(&layout, type, rows, columns, static_cast<int64_t>(leading)));
  }

  float at(size_t row, size_t column) const { return values[column * rows + row]; }

  std::vector<float> read() const {
    std::vector<std::byte> packed(values.size() * element_bytes());
    EXPECT_CUDA(cudaDeviceSynchronize());
    EXPECT_CUDA(cudaMemcpy2D(packed.data(), line_bytes(), device, leading * element_bytes(), line_bytes(), columns,
                             cudaMemcpyDeviceToHost));
    std::vector<float> result(values.size());
    for (size_t index = 0; index < values.size(); ++index) result[index] = unpack(packed, index);
    return result;
  }

 private:
  size_t element_bytes() const { return type == CUDA_R_16BF ? 2 : 4; }
  size_t line_bytes() const { return rows * element_bytes(); }
  float unpack(const std::vector<std::byte>& packed, size_t index) const {
    if (type == CUDA_R_16BF) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(packed.data())[index]);
    return reinterpret_cast<const float*>(packed.data())[index];
  }
  void upload() const {
    std::vector<std::byte> packed(values.size() * element_bytes());
    for (size_t index = 0; index < values.size(); ++index) {
      if (type == CUDA_R_16BF) {
        reinterpret_cast<__nv_bfloat16*>(packed.data())[index] = __float2bfloat16(values[index]);
      } else {
        reinterpret_cast<float*>(packed.data())[index] = values[index];
      }
    }
    EXPECT_CUDA(cudaMemcpy2D(device, leading * element_bytes(), packed.data(), line_bytes(), line_bytes(), columns,
                             cudaMemcpyHostToDevice));
    EXPECT_CUDA(cudaDeviceSynchronize());
  }
};

struct Lt {
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  void* workspace = nullptr;

  explicit Lt(cublasComputeType_t compute = CUBLAS_COMPUTE_32F) {
    EXPECT_CUBLAS(cublasLtCreate(&handle));
    EXPECT_CUBLAS(cublasLtMatmulDescCreate(&description, compute, CUDA_R_32F));
    EXPECT_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
    EXPECT_CUDA(cudaMalloc(&workspace, kWorkspaceBytes));
    const uint64_t bytes = kWorkspaceBytes;
    EXPECT_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                                       sizeof bytes));
  }
  ~Lt() {
    EXPECT_CUDA(cudaFree(workspace));
    EXPECT_CUBLAS(cublasLtMatmulPreferenceDestroy(preference));
    EXPECT_CUBLAS(cublasLtMatmulDescDestroy(description));
    cublasLtDestroy(handle);
  }
  Lt(const Lt&) = delete;
  Lt& operator=(const Lt&) = delete;

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    EXPECT_CUBLAS(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value));
  }
  cublasStatus_t choose(const TestMatrix& a, const TestMatrix& b, const TestMatrix& d,
                        cublasLtMatmulHeuristicResult_t& result) {
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, description, a.layout, b.layout, d.layout,
                                                                 d.layout, preference, 1, &result, &found);
    EXPECT(found == (status == CUBLAS_STATUS_SUCCESS ? 1 : 0));
    return status;
  }
  cublasStatus_t multiply(const TestMatrix& a, const TestMatrix& b, const TestMatrix& d, float alpha = 1,
                          float beta = 0) {
    cublasLtMatmulHeuristicResult_t result;
    if (const cublasStatus_t status = choose(a, b, d, result); status != CUBLAS_STATUS_SUCCESS) return status;
    return cublasLtMatmul(handle, description, &alpha, a.device, a.layout, b.device, b.layout, &beta, d.device,
                          d.layout, d.device, d.layout, &result.algo, workspace, kWorkspaceBytes, nullptr);
  }
};

// The largest error in units of what rounding may do.
double error_of(const TestMatrix& a, bool turn_a, const TestMatrix& b, bool turn_b, const TestMatrix& d, float alpha,
                float beta, double rounding, const std::vector<float>& bias = {}) {
  const std::vector<float> result = d.read();
  const size_t inner = turn_a ? a.rows : a.columns;
  double worst = 0;
  for (size_t row = 0; row < d.rows; ++row) {
    for (size_t column = 0; column < d.columns; ++column) {
      double sum = 0, size = 0;
      for (size_t k = 0; k < inner; ++k) {
        const double term =
            double(turn_a ? a.at(k, row) : a.at(row, k)) * double(turn_b ? b.at(column, k) : b.at(k, column));
        sum += term;
        size += std::fabs(term);
      }
      double expected = alpha * sum + (beta != 0 ? beta * double(d.at(row, column)) : 0);
      if (!bias.empty()) expected += bias[row];
      const double unit = rounding * (std::fabs(alpha) * size + std::fabs(expected) + 1e-6);
      worst = std::fmax(worst, std::fabs(expected - result[column * d.rows + row]) / unit);
    }
  }
  return worst;
}

constexpr double kFloatRounding = 1.2e-7, kBf16Rounding = 4e-3, kTf32Rounding = 1e-3;

void values_of_all_transposes() {
  for (const size_t m : {1, 5, 33}) {
    for (const size_t n : {1, 17, 40}) {
      for (const size_t k : {1, 31, 300}) {
        for (const int turns : {0, 1, 2, 3}) {
          const bool turn_a = turns & 1, turn_b = turns & 2;
          const TestMatrix a(turn_a ? k : m, turn_a ? m : k, CUDA_R_32F, 1, 3);
          const TestMatrix b(turn_b ? n : k, turn_b ? k : n, CUDA_R_32F, 2, 1);
          const TestMatrix d(m, n, CUDA_R_32F, 3, 2);
          Lt lt;
          lt.set<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, turn_a ? CUBLAS_OP_T : CUBLAS_OP_N);
          lt.set<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, turn_b ? CUBLAS_OP_T : CUBLAS_OP_N);
          const float beta = turns == 3 ? 0.5f : 0.f;
          EXPECT_CUBLAS(lt.multiply(a, b, d, 2, beta));
          EXPECT(error_of(a, turn_a, b, turn_b, d, 2, beta, kFloatRounding) < 4);
        }
      }
    }
  }
}

void values_of_types() {
  const TestMatrix a(37, 64, CUDA_R_16BF, 1), b(64, 21, CUDA_R_16BF, 2);
  const TestMatrix as_float(37, 21, CUDA_R_32F, 3), as_bf16(37, 21, CUDA_R_16BF, 4);
  Lt lt;
  EXPECT_CUBLAS(lt.multiply(a, b, as_float));
  EXPECT(error_of(a, false, b, false, as_float, 1, 0, kFloatRounding) < 4);
  EXPECT_CUBLAS(lt.multiply(a, b, as_bf16, 1, 1));
  EXPECT(error_of(a, false, b, false, as_bf16, 1, 1, kBf16Rounding) < 1);
  const TestMatrix c(37, 64, CUDA_R_32F, 5), d(64, 21, CUDA_R_32F, 6), e(37, 21, CUDA_R_32F, 7);
  Lt tf32(CUBLAS_COMPUTE_32F_FAST_TF32);
  EXPECT_CUBLAS(tf32.multiply(c, d, e));
  EXPECT(error_of(c, false, d, false, e, 1, 0, kTf32Rounding) < 1);
  EXPECT(error_of(c, false, d, false, e, 1, 0, kFloatRounding) > 4);
}

// To the nearest bf16, and ties to even: products by 1.001 and, for the ties, by 1 + 2^-8.
void values_are_rounded_to_bf16() {
  const TestMatrix a(16, 16, CUDA_R_16BF, 1), one(16, 16, CUDA_R_16BF, 2), d(16, 16, CUDA_R_16BF, 3);
  std::vector<__nv_bfloat16> identity(256, __float2bfloat16(0));
  for (size_t index = 0; index < 16; ++index) identity[17 * index] = __float2bfloat16(1);
  EXPECT_CUDA(cudaMemcpy(one.device, identity.data(), 512, cudaMemcpyHostToDevice));
  for (const float alpha : {1.001f, 1.00390625f}) {
    Lt lt;
    EXPECT_CUBLAS(lt.multiply(a, one, d, alpha));
    const std::vector<float> result = d.read();
    for (size_t index = 0; index < result.size(); ++index) {
      EXPECT(result[index] == __bfloat162float(__float2bfloat16(alpha * a.values[index])));
    }
  }
}

// Which has the type of D.
void values_with_a_bias() {
  for (const cudaDataType_t type : {CUDA_R_32F, CUDA_R_16BF}) {
    const TestMatrix a(9, 20, type, 1), b(20, 5, type, 2), d(9, 5, type, 3), bias(9, 1, type, 9);
    Lt lt;
    lt.set<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    EXPECT(lt.multiply(a, b, d) == CUBLAS_STATUS_INVALID_VALUE);
    lt.set<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.device);
    EXPECT_CUBLAS(lt.multiply(a, b, d));
    const double rounding = type == CUDA_R_32F ? 4 * kFloatRounding : kBf16Rounding;
    EXPECT(error_of(a, false, b, false, d, 1, 0, rounding, bias.values) < 1);
  }
}

void wrong_problems_are_refused() {
  TestMatrix a(8, 16, CUDA_R_32F, 1);
  const TestMatrix b(16, 4, CUDA_R_32F, 2), d(8, 4, CUDA_R_32F, 3);
  const TestMatrix short_b(15, 4, CUDA_R_32F, 2), bf16_b(16, 4, CUDA_R_16BF, 2), bf16_d(8, 4, CUDA_R_16BF, 2);
  Lt lt;
  EXPECT(lt.multiply(a, short_b, d) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(lt.multiply(a, b, b) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(lt.multiply(a, bf16_b, d) == CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT(lt.multiply(a, b, bf16_d) == CUBLAS_STATUS_NOT_SUPPORTED);
  Lt half(CUBLAS_COMPUTE_16F);
  EXPECT(half.multiply(a, b, d) == CUBLAS_STATUS_NOT_SUPPORTED);
  const TestMatrix bf16_a(8, 16, CUDA_R_16BF, 1);
  Lt tf32(CUBLAS_COMPUTE_32F_FAST_TF32);
  EXPECT(tf32.multiply(bf16_a, bf16_b, d) == CUBLAS_STATUS_NOT_SUPPORTED);
  for (const cublasLtEpilogue_t epilogue : {CUBLASLT_EPILOGUE_BGRADB, CUBLASLT_EPILOGUE_RELU_BIAS}) {
    Lt unknown;
    unknown.set<uint32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    unknown.set<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, a.device);
    EXPECT(unknown.multiply(a, b, d) == CUBLAS_STATUS_NOT_SUPPORTED);
  }
  a.describe(8, 16, 7);
  EXPECT(lt.multiply(a, b, d) == CUBLAS_STATUS_INVALID_VALUE);
  const int64_t wrong_size = 0;
  EXPECT(cublasLtMatmulDescSetAttribute(lt.description, CUBLASLT_MATMUL_DESC_TRANSA, &wrong_size, sizeof wrong_size) ==
         CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_CUBLAS(cublasLtDestroy(lt.handle));
  EXPECT(lt.multiply(a, b, d) == CUBLAS_STATUS_NOT_INITIALIZED);
  EXPECT(std::strcmp(cublasLtGetStatusString(CUBLAS_STATUS_NOT_SUPPORTED),
                     "the requested functionality is not supported") == 0);
}

void algorithms_want_what_they_were_chosen_for() {
  const TestMatrix a(8, 16, CUDA_R_32F, 1), b(16, 4, CUDA_R_32F, 2), d(8, 4, CUDA_R_32F, 3);
  const float one = 1, zero = 0;
  Lt lt;
  cublasLtMatmulHeuristicResult_t result;
  EXPECT_CUBLAS(lt.choose(a, b, d, result));
  EXPECT(result.workspaceSize > 0);
  const auto multiply = [&](const void* a_data, void* workspace, size_t bytes) {
    return cublasLtMatmul(lt.handle, lt.description, &one, a_data, a.layout, b.device, b.layout, &zero, d.device,
                          d.layout, d.device, d.layout, &result.algo, workspace, bytes, nullptr);
  };
  EXPECT_CUDA(cudaMemset(lt.workspace, 0, kWorkspaceBytes));
  EXPECT_CUBLAS(multiply(a.device, lt.workspace, kWorkspaceBytes));
  // It is written, so it must hold nothing else.
  EXPECT(download(static_cast<float*>(lt.workspace), 1)[0] != 0);
  EXPECT(multiply(a.device, nullptr, 0) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(multiply(a.device, nullptr, kWorkspaceBytes) == CUBLAS_STATUS_INVALID_VALUE);
  EXPECT(multiply(static_cast<float*>(a.device) + 1, lt.workspace, kWorkspaceBytes) == CUBLAS_STATUS_NOT_SUPPORTED);
  lt.set<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  EXPECT(multiply(a.device, lt.workspace, kWorkspaceBytes) == CUBLAS_STATUS_INVALID_VALUE);
}

void multiplies_outside_its_memory() {
  const TestMatrix a(8, 16, CUDA_R_32F, 1), d(8, 5, CUDA_R_32F, 3);
  TestMatrix b(16, 4, CUDA_R_32F, 2);
  b.describe(16, 5, 16);
  Lt lt;
  EXPECT_CUBLAS(lt.multiply(a, b, d));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

void multiplies_what_nobody_wrote() {
  TestMatrix a(8, 16, CUDA_R_32F, 1);
  const TestMatrix b(16, 4, CUDA_R_32F, 2), d(8, 4, CUDA_R_32F, 3);
  EXPECT_CUDA(cudaMalloc(&a.device, 8 * 16 * sizeof(float)));
  EXPECT_CUDA(cudaMemset(a.device, 0, 8 * 15 * sizeof(float)));
  Lt lt;
  EXPECT_CUBLAS(lt.multiply(a, b, d));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

void multiplies_into_an_input() {
  const TestMatrix a(8, 8, CUDA_R_32F, 1), b(8, 8, CUDA_R_32F, 2);
  Lt lt;
  EXPECT_CUBLAS(lt.multiply(a, b, a));
  EXPECT_CUDA(cudaDeviceSynchronize());
}

// A graph multiplies what its operands hold when it runs, again and again.
void products_in_a_graph() {
  const TestMatrix a(9, 12, CUDA_R_32F, 1), b(12, 7, CUDA_R_32F, 2), d(9, 7, CUDA_R_32F, 3);
  Lt lt;
  cublasLtMatmulHeuristicResult_t result;
  EXPECT_CUBLAS(lt.choose(a, b, d, result));
  cudaStream_t stream = nullptr;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  EXPECT_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  {
    const float one = 1, zero = 0;
    EXPECT_CUDA(cudaMemsetAsync(d.device, 0, 9 * 7 * sizeof(float), stream));
    for (const float* beta : {&zero, &one}) {
      EXPECT_CUBLAS(cublasLtMatmul(lt.handle, lt.description, &one, a.device, a.layout, b.device, b.layout, beta,
                                   d.device, d.layout, d.device, d.layout, &result.algo, lt.workspace, kWorkspaceBytes,
                                   stream));
    }
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
  EXPECT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  EXPECT(d.read() == d.values);
  std::vector<float> results[2];
  for (std::vector<float>& values : results) {
    EXPECT_CUDA(cudaGraphLaunch(executable, stream));
    EXPECT_CUDA(cudaStreamSynchronize(stream));
    EXPECT(error_of(a, false, b, false, d, 2, 0, kFloatRounding) < 4);
    values = d.read();
  }
  EXPECT(results[0] == results[1]);
  EXPECT_CUDA(cudaMemset(a.device, 0, 9 * 12 * sizeof(float)));
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT_CUDA(cudaGraphLaunch(executable, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT(d.read() == std::vector<float>(9 * 7, 0.0f));
}

void is_reasonably_fast() {
  const TestMatrix a(512, 512, CUDA_R_32F, 1), b(512, 512, CUDA_R_32F, 2), d(512, 512, CUDA_R_32F, 3);
  Lt lt;
  EXPECT_CUBLAS(lt.multiply(a, b, d));
  const std::clock_t begin = std::clock();
  EXPECT_CUDA(cudaDeviceSynchronize());
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  std::printf("%.1f GFLOP/s\n", 2e-9 * 512 * 512 * 512 / seconds);
}

}  // namespace

int main() {
  const Environment checked = {{"CUDA_EMULATION_CHECK", "1"}}, lazy = {{"CUDA_EMULATION_SEED", "1"}};
  expect_success("values of all transposes", checked, values_of_all_transposes);
  expect_success("values of types", checked, values_of_types);
  expect_success("values are rounded to bf16", checked, values_are_rounded_to_bf16);
  expect_success("values with a bias", checked, values_with_a_bias);
  expect_success("products in a graph", checked, products_in_a_graph);
  expect_success("wrong problems are refused", {}, wrong_problems_are_refused);
  expect_success("algorithms want what they were chosen for", {}, algorithms_want_what_they_were_chosen_for);
  expect_success("a large product", lazy, is_reasonably_fast);
  expect_report("a product outside its memory", "cublasLtMatmul: B", multiplies_outside_its_memory);
  expect_report("a product of uninitialised memory", "cublasLtMatmul: A", multiplies_what_nobody_wrote, checked);
  expect_report("a product into one of its inputs", "overlaps an input", multiplies_into_an_input);
}
