// Tiles of rows times items (loss_tile() says how many), each of whose logits fit in scratch memory: cuBLASLt makes the
// logits of a tile, one block a row makes its loss and turns its logits into dz where they lie or, where dz is bf16,
// beside them (read twice, the second time from the cache unless the row is long), and two products and the sums of
// dz's columns add the gradients. A row that is cut goes over its tiles once for its loss and, where there are
// gradients, again with its logits computed a second time; dhidden of bf16 is then summed in fp32 and rounded once. One
// block sums the losses of all rows: 256 threads in double, each every 256th row, and their sums in a fixed tree.
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

// Rows [first_row, first_row + rows) times items [first_item, first_item + items). Logits of neighbouring rows lie
// `stride` apart, as do those of dz, which are the logits' where T is float. For each row tops, sums and target_logits
// hold what was found in its tiles so far.
template <class T>
struct Tile {
  float* logits;
  T* dz;
  float *tops, *sums, *target_logits;
  float* dhidden;  // (rows, C), only where a bf16 gradient has several summands
  int64_t stride, first_row, rows, first_item, items;
};

// What a visit to a tile is for: the loss, which needs all tiles of a row; dz, which needs the loss; or both, in a tile
// of whole rows.
enum class Visit { kLoss, kGradients, kBoth };

template <Visit kVisit, class T>
__global__ void __launch_bounds__(kThreads) finish_rows(MaskedItemLoss<T> args, Tile<T> tile) {
  __shared__ float shared[kWarps];
  const int64_t place = blockIdx.x, row = tile.first_row + place;
  float* logits = tile.logits + place * tile.stride;
  const int32_t target = args.targets[row];
  const int64_t target_column = target - tile.first_item;
  cuda::SoftmaxScale scale;
  if (kVisit == Visit::kGradients || tile.first_item > 0) scale = {tile.tops[place], tile.sums[place]};
  if (kVisit != Visit::kGradients) {
    const float target_logit = 0 <= target_column && target_column < tile.items ? logits[target_column]
                               : target >= 0 && target_column < 0               ? tile.target_logits[place]
                                                                                : 0.0f;
    const cuda::SoftmaxScale found = cuda::softmax_scale<kThreads>(logits, tile.items, shared);
    scale = cuda::SoftmaxScale::of_both(scale, found);
    if (threadIdx.x == 0) {
      if (kVisit == Visit::kLoss) {
        tile.tops[place] = scale.top;
        tile.sums[place] = scale.sum;
        tile.target_logits[place] = target_logit;
      }
      // Of the tiles so far: right after the last one.
      args.row_losses[row] =
          target < 0 ? 0.0f : static_cast<float>(log(double{scale.sum}) + (double{scale.top} - target_logit));
    }
  }
  if (kVisit == Visit::kLoss) return;
  const float factor = target < 0 ? 0.0f : 1 / scale.sum;
  T* dz = tile.dz + place * tile.stride;
  for (int64_t c = 4 * threadIdx.x; c < tile.items; c += 4 * kThreads) {
    cuda::with_lanes<true>(tile.items - c, [&](auto lanes) {
      cuda::Four values = lanes.load(logits + c);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        values.at[k] = expf(values.at[k] - scale.top) * factor - (c + k == target_column ? 1.0f : 0.0f);
      }
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
void make_logits(CudaStream stream, const MaskedItemLoss<T>& args, const Tile<T>& tile) {
  const int64_t columns = args.table.columns();
  cuda::multiply<T, float>(stream, {.m = tile.rows,
                                    .n = tile.items,
                                    .k = columns,
                                    .a = {args.hidden.row(tile.first_row), columns, false},
                                    .b = {args.table.row(tile.first_item), columns, true},
                                    .bias = args.bias ? args.bias.data() + tile.first_item : nullptr,
                                    .c = tile.logits,
                                    .c_stride = tile.stride,
                                    .accumulate = false,
                                    .tf32 = args.tf32});
}

template <class Output, class T>
void add_hidden_gradient(CudaStream stream, const MaskedItemLoss<T>& args, const Tile<T>& tile, Output* to,
                         bool accumulate) {
  const int64_t columns = args.table.columns();
  cuda::multiply<T, Output>(stream, {.m = tile.rows,
                                     .n = columns,
                                     .k = tile.items,
                                     .a = {tile.dz, tile.stride, false},
                                     .b = {args.table.row(tile.first_item), columns, false},
                                     .bias = nullptr,
                                     .c = to,
                                     .c_stride = columns,
                                     .accumulate = accumulate,
                                     .tf32 = args.tf32});
}

template <class T>
void add_gradients(CudaStream stream, const MaskedItemLoss<T>& args, const Tile<T>& tile) {
  const int64_t columns = args.table.columns();
  if (tile.dhidden) {
    add_hidden_gradient(stream, args, tile, tile.dhidden, tile.first_item > 0);
  } else {
    add_hidden_gradient(stream, args, tile, args.dhidden.row(tile.first_row), true);
  }
  cuda::multiply<T, float>(stream, {.m = tile.items,
                                    .n = columns,
                                    .k = tile.rows,
                                    .a = {tile.dz, tile.stride, true},
                                    .b = {args.hidden.row(tile.first_row), columns, false},
                                    .bias = nullptr,
                                    .c = args.dtable.row(tile.first_item),
                                    .c_stride = columns,
                                    .accumulate = true,
                                    .tf32 = args.tf32});
  if (!args.dbias) return;
  cuda::add_partials(
      stream, cuda::Partials<T>{.rows = tile.dz, .count = tile.rows, .columns = tile.items, .stride = tile.stride},
      args.dbias.data() + tile.first_item);
}

constexpr const char* kLaunchNames[] = {"masked_item_loss_scan", "masked_item_loss_gradients", "masked_item_loss_rows"};

template <Visit kVisit, class T>
void visit_tiles(CudaStream stream, const MaskedItemLoss<T>& args, Tile<T> tile, int64_t most_items) {
  const int64_t items = args.table.rows();
  for (tile.first_item = 0; tile.first_item < items; tile.first_item += most_items) {
    tile.items = std::min(most_items, items - tile.first_item);
    make_logits(stream, args, tile);
    cuda::start(stream, kLaunchNames[static_cast<int>(kVisit)], finish_rows<kVisit, T>, cuda::grid(tile.rows), kThreads,
                0, args, tile);
    if (kVisit != Visit::kLoss) add_gradients(stream, args, tile);
  }
}

struct AddFours {
  const float* x;
  Bf16* y;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    const cuda::Four values = lanes.load(x + i);
    cuda::Four sums = lanes.load(y + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) sums.at[k] += values.at[k];
    lanes.store(sums, y + i);
  }
};

template <class T>
void add_up(CudaStream stream, const MaskedItemLoss<T>& args) {
  constexpr bool kInPlace = std::is_same_v<T, float>;
  const int64_t rows = args.hidden.rows(), items = args.table.rows(), columns = args.table.columns();
  const LossTile most = loss_tile<T>(rows, items, columns, args.tf32, args.most_tile_bytes);
  const bool cut = most.items < items;
  Tile<T> tile{};
  tile.stride = most.stride;
  if (rows > 0) {
    cuda::carve_scratch(stream, [&](cuda::Carver& carver) {
      tile.logits = carver.take<float>(most.logits);
      if constexpr (kInPlace) {
        tile.dz = tile.logits;
      } else {
        tile.dz = carver.take<T>(most.logits);
      }
      tile.tops = carver.take<float>(most.rows);
      tile.sums = carver.take<float>(most.rows);
      tile.target_logits = carver.take<float>(most.rows);
      if (cut && !kInPlace) tile.dhidden = carver.take<float>(most.rows * columns);
    });
  }
  for (; tile.first_row < rows; tile.first_row += most.rows) {
    tile.rows = std::min(most.rows, rows - tile.first_row);
    if (args.dhidden && !cut) {
      visit_tiles<Visit::kBoth>(stream, args, tile, most.items);
      continue;
    }
    visit_tiles<Visit::kLoss>(stream, args, tile, most.items);
    if (!args.dhidden) continue;
    visit_tiles<Visit::kGradients>(stream, args, tile, most.items);
    if constexpr (!kInPlace) {
      T* dhidden = args.dhidden.row(tile.first_row);
      cuda::start_fours(stream, "masked_item_loss_add", tile.rows * columns, cuda::fours_aligned(dhidden),
                        AddFours{tile.dhidden, dhidden});
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
