#include "cublaslt_work.h"

#include <algorithm>
#include <cstring>

namespace cuda_emulation {
namespace {

constexpr const char* kCall = "cublasLtMatmul";

// As runs of elements that follow each other in memory, which matrices with a leading dimension have gaps between.
template <class Function>
void for_each_line(const Matrix& matrix, Function function) {
  const bool is_by_columns = matrix.row_step == 1;
  const int64_t lines = is_by_columns ? matrix.columns : matrix.rows;
  const int64_t step = is_by_columns ? matrix.column_step : matrix.row_step;
  const int64_t length = is_by_columns ? matrix.rows : matrix.columns;
  const auto bytes = static_cast<int64_t>(element_bytes(matrix.type));
  for (int64_t line = 0; line < lines; ++line) {
    function(matrix.data + line * step * bytes, static_cast<size_t>(length * bytes));
  }
}

size_t extent(const Matrix& matrix) {
  if (matrix.rows == 0 || matrix.columns == 0) return 0;
  const int64_t last = (matrix.rows - 1) * matrix.row_step + (matrix.columns - 1) * matrix.column_step;
  return static_cast<size_t>(last + 1) * element_bytes(matrix.type);
}

size_t extent(const Vector& vector) {
  return static_cast<size_t>(vector.size) * element_bytes(vector.type);
}

bool overlap(const void* left, size_t left_bytes, const void* right, size_t right_bytes) {
  const auto a = reinterpret_cast<uintptr_t>(left), b = reinterpret_cast<uintptr_t>(right);
  return a < b + right_bytes && b < a + left_bytes;
}

class ProductCheck {
 public:
  ProductCheck(const MatrixProduct& product, const Workspace& workspace) : product_(product), workspace_(workspace) {}

  void before() const {
    require_input(product_.a, "A");
    require_input(product_.b, "B");
    if (product_.beta != 0) require_input(product_.c, "C");
    if (product_.bias.data) require_input(product_.bias, "bias");
    require_device_range(product_.d.data, extent(product_.d), words("D").c_str());
    if (workspace_.bytes > 0) require_device_range(workspace_.data, workspace_.bytes, words("workspace").c_str());
    require_apart(product_.d.data, extent(product_.d), "D");
    require_apart(workspace_.data, workspace_.bytes, "the workspace");
  }

  void after() const {
    for_each_line(product_.d, [](const std::byte* line, size_t bytes) { mark_initialised(line, bytes); });
  }

 private:
  static std::string words(const char* operand) { return std::string(kCall) + ": " + operand; }

  void require_input(const Matrix& matrix, const char* name) const {
    const std::string text = words(name);
    require_device_range(matrix.data, extent(matrix), text.c_str());
    if (!settings().check) return;
    for_each_line(matrix, [&](const std::byte* line, size_t bytes) { require_initialised(line, bytes, text.c_str()); });
  }

  void require_input(const Vector& vector, const char* name) const {
    const std::string text = words(name);
    require_device_range(vector.data, extent(vector), text.c_str());
    require_initialised(vector.data, extent(vector), text.c_str());
  }

  // What is written must not be read meanwhile. C may be D.
  void require_apart(const void* data, size_t bytes, const char* name) const {
    if (overlap(data, bytes, product_.a.data, extent(product_.a)) ||
        overlap(data, bytes, product_.b.data, extent(product_.b))) {
      report("overlap", words(name) + " overlaps an input, at " + describe_address(data));
    }
  }

  const MatrixProduct& product_;
  const Workspace& workspace_;
};

void run_product(const MatrixProduct& product, const Workspace& workspace) {
  const ProductCheck check(product, workspace);
  check.before();
  {
    const DeviceAccess access;
    if (workspace.bytes > 0) std::memset(workspace.data, 0xFF, workspace.bytes);
    multiply(product);
  }
  check.after();
}

}  // namespace

cublasStatus_t enqueue_product(cudaStream_t stream, const MatrixProduct& product, const Workspace& workspace) {
  const cudaError_t status =
      enqueue_work(stream, simple_work(kCall, [product, workspace] { run_product(product, workspace); }));
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace cuda_emulation
