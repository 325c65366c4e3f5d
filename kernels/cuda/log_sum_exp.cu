// A block a row.
#include "kernels/log_sum_exp.h"

#include "kernels/cuda/softmax.cuh"

namespace itemloom {
namespace cuda_log_sum_exp {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) log_sum_exp(LogSumExp args) {
  __shared__ float shared[kThreads / cuda::kWarp];
  const int64_t row = blockIdx.x;
  const cuda::SoftmaxScale scale = cuda::softmax_scale<kThreads>(args.x.row(row), args.x.columns(), shared);
  if (threadIdx.x == 0) args.y[row] = double{scale.top} + log(double{scale.sum});
}

}  // namespace cuda_log_sum_exp

void launch(CudaStream stream, const LogSumExp& args) {
  using namespace cuda_log_sum_exp;
  cuda::start(stream, "log_sum_exp", log_sum_exp, cuda::grid(args.x.rows()), kThreads, 0, args);
}

}  // namespace itemloom
