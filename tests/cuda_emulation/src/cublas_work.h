// What cuBLAS and cuBLASLt share: a checked matrix product as a stream's work, and the names of statuses.
#pragma once

#include <cublas_api.h>

#include "matrix_product.h"
#include "scheduler.h"

namespace cuda_emulation {

struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

// `what` names the call in reports. The workspace is written with bytes that mean nothing, as an algorithm would.
WorkMaker product_work(const char* what, const MatrixProduct& product, const Workspace& workspace);

// Appends the product to the stream; the failure of doing so as cuBLAS says it.
cublasStatus_t enqueue_product(cudaStream_t stream, const char* what, const MatrixProduct& product,
                               const Workspace& workspace);

const char* status_text(cublasStatus_t status);

}  // namespace cuda_emulation
