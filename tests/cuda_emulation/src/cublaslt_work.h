// A matrix product as a stream's work, with the checks of its operands.
#pragma once

#include <cublasLt.h>

#include "matrix_product.h"
#include "scheduler.h"

namespace cuda_emulation {

struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

// Appends the product to the stream; the failure of doing so as cuBLASLt says it. The workspace is written with bytes
// that mean nothing, as an algorithm would.
cublasStatus_t enqueue_product(cudaStream_t stream, const MatrixProduct& product, const Workspace& workspace);

}  // namespace cuda_emulation
