// The rows are worked through in chunks whose logits fit in scratch memory: cuBLASLt makes the logits of a chunk, one
// block a row makes its loss and turns its logits into dz where they lie or, where dz is bf16, beside them (read twice,
// the second time mostly from the cache), and two products and the sums of dz's columns add the gradients. One block
// sums the losses of all rows: 256 threads in double, each every 256th row, and their sums in a fixed tree.
#include "kernels/masked_item_loss.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/carver.cuh"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/partials.cuh"
#include "kernels/cuda/softmax.cuh"

namespace itemloom {
namespace cuda_masked_item_loss {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;

// Rows [first, first + rows), whose logits lie `stride` apart, as do those of dz, which are the logits' where T is
// float.
template <class T>
struct Chunk {
  float* logits;
  T* dz;
  int64_t stride, first, rows;
};

template <bool kGradients, class T>
__global__ void __launch_bounds__(kThreads) finish_rows(MaskedItemLoss<T> args, Chunk<T> chunk) {
  __shared__ float shared[kWarps];
  const int64_t row = chunk.first + blockIdx.x, items = args.table.rows();
  const float* logits = chunk.logits + blockIdx.x * chunk.stride;
  const int32_t target = args.targets[row];
  const float target_logit = target < 0 ? 0.0f : logits[target];
  const cuda::SoftmaxScale scale = cuda::softmax_scale<kThreads>(logits, items, shared);
  const float top = scale.top, sum = scale.sum;
  if (threadIdx.x == 0) {
    args.row_losses[row] = target < 0 ? 0.0f : static_cast<float>(log(double{sum}) + (double{top} - target_logit));
  }
  if (!kGradients) return;
  const float factor = target < 0 ? 0.0f : 1 / sum;
  T* dz = chunk.dz + blockIdx.x * chunk.stride;
  for (int64_t c = 4 * threadIdx.x; c < items; c += 4 * kThreads) {
    cuda::with_lanes<true>(items - c, [&](auto lanes) {
      cuda::Four values = lanes.load(logits + c);
#pragma unroll
      for (int k = 0; k < 4; ++k) values.at[k] = expf(values.at[k] - top) * factor - (c + k == target ? 1.0f : 0.0f);
      lanes.store(values, dz + c);
    });
  }
}

__global__ void __launch_bounds__(kThreads) sum_losses(Vector<const float> row_losses, double* loss) {
  __shared__ double shared[kWarps];
  double sum = 0;
#pragma unroll 4
  for (int64_t row = threadIdx.x; row < row_losses.size(); row += kThreads) sum += row_losses[row];
  sum = cuda::block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) *loss = sum;
}

template <class T>
void make_logits(CudaStream stream, const MaskedItemLoss<T>& args, const Chunk<T>& chunk) {
  const int64_t columns = args.table.columns();
  cuda::multiply<T, float>(stream, {.m = chunk.rows,
                                    .n = args.table.rows(),
                                    .k = columns,
                                    .a = {args.hidden.row(chunk.first), columns, false},
                                    .b = {args.table.data(), columns, true},
                                    .bias = args.bias.data(),
                                    .c = chunk.logits,
                                    .c_stride = chunk.stride,
                                    .accumulate = false,
                                    .tf32 = args.tf32});
}

template <class T>
void add_gradients(CudaStream stream, const MaskedItemLoss<T>& args, const Chunk<T>& chunk) {
  const int64_t columns = args.table.columns(), items = args.table.rows();
  cuda::multiply<T, T>(stream, {.m = chunk.rows,
                                .n = columns,
                                .k = items,
                                .a = {chunk.dz, chunk.stride, false},
                                .b = {args.table.data(), columns, false},
                                .bias = nullptr,
                                .c = args.dhidden.row(chunk.first),
                                .c_stride = columns,
                                .accumulate = true,
                                .tf32 = args.tf32});
  cuda::multiply<T, float>(stream, {.m = items,
                                    .n = columns,
                                    .k = chunk.rows,
                                    .a = {chunk.dz, chunk.stride, true},
                                    .b = {args.hidden.row(chunk.first), columns, false},
                                    .bias = nullptr,
                                    .c = args.dtable.data(),
                                    .c_stride = columns,
                                    .accumulate = true,
                                    .tf32 = args.tf32});
  if (!args.dbias) return;
  cuda::add_partials(stream,
                     cuda::Partials<T>{.rows = chunk.dz, .count = chunk.rows, .columns = items, .stride = chunk.stride},
                     args.dbias.data());
}

template <class T>
void add_up(CudaStream stream, const MaskedItemLoss<T>& args) {
  constexpr bool kInPlace = std::is_same_v<T, float>;
  const int64_t rows = args.hidden.rows();
  if (rows > 0) {
    const LossTile tile = loss_tile<T>(rows, args.table.rows());
    Chunk<T> chunk{.logits = nullptr, .dz = nullptr, .stride = tile.stride, .first = 0, .rows = 0};
    cuda::carve_scratch(stream, [&](cuda::Carver& carver) {
      chunk.logits = carver.take<float>(tile.rows * tile.stride);
      if constexpr (kInPlace) {
        chunk.dz = chunk.logits;
      } else {
        chunk.dz = carver.take<T>(tile.rows * tile.stride);
      }
    });
    for (; chunk.first < rows; chunk.first += tile.rows) {
      chunk.rows = std::min(tile.rows, rows - chunk.first);
      make_logits(stream, args, chunk);
      cuda::start(stream, "masked_item_loss_rows", args.dhidden ? finish_rows<true, T> : finish_rows<false, T>,
                  cuda::grid(chunk.rows), kThreads, 0, args, chunk);
      if (args.dhidden) add_gradients(stream, args, chunk);
    }
  }
  cuda::start(stream, "masked_item_loss_sum", sum_losses, cuda::grid(1), kThreads, 0, args.row_losses,
              args.loss.data());
}

}  // namespace cuda_masked_item_loss

void launch(CudaStream stream, const MaskedItemLoss<float>& args) {
  cuda_masked_item_loss::add_up(stream, args);
}

void launch(CudaStream stream, const MaskedItemLoss<Bf16>& args) {
  cuda_masked_item_loss::add_up(stream, args);
}

}  // namespace itemloom
