// Forward: half a warp a row of up to kLongestHalfRow columns, one warp a row of up to kLongestWarpRow columns, one
// block a longer one. A row is read three times, for its mean, its variance and its output, the second and third time
// from the cache; what is read is the sum, where there is one, as the same thread has stored it. A thread has four
// columns, so that two draw each mask.
//
// Backward: one block kRows rows. First a warp or half a warp finds the row means of g and of g n; then the block goes
// over its rows in tiles of 32 columns, which are in the cache by now, finds dx and dresidual, and sums dgamma, dbeta
// and dbias into a partial row. Masks are drawn into shared memory for kSpan columns at a time.
#include "kernels/layer_norm.h"

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/dropout_mask.cuh"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/partials.cuh"

namespace itemloom {
namespace cuda_layer_norm {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int kHalfWarp = cuda::kWarp / 2;
constexpr int64_t kLongestHalfRow = 4 * kHalfWarp, kLongestWarpRow = 1024;
constexpr int kRows = kLayerNormSumRows;
constexpr int kSpan = 256;

// body(column, lanes) for the fours of a row that fall to this of kGroup threads.
template <bool kAligned, int kGroup, class Body>
__device__ void for_row(int64_t columns, Body body) {
  for (int64_t c = threadIdx.x % kGroup * 4; c < columns; c += 4 * kGroup) {
    cuda::with_lanes<kAligned>(columns - c, [&](auto lanes) { body(c, lanes); });
  }
}

// Puts four of the row's sums in place.
template <class T, class Lanes>
__device__ void store_sum(const LayerNormForward<T>& args, const cuda::DropoutMask& mask, float scale, int64_t row,
                          int64_t c, Lanes lanes) {
  cuda::Four values = lanes.load(args.x.row(row) + c);
  if (mask.drops()) {
    const cuda::KeptFour kept = mask.kept(mask.draw(row, c / cuda::kMaskColumns), c % cuda::kMaskColumns != 0);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = kept.at[k] ? __fmul_rn(values.at[k], scale) : 0.0f;
  }
  if (args.residual) {
    const cuda::Four residual = lanes.load(args.residual.row(row) + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = __fadd_rn(residual.at[k], values.at[k]);
  }
  lanes.store(values, args.sum.row(row) + c);
}

// kGroup threads a row: half a warp, a warp or the whole block. kSums: of args.sum, which is made first, and not of
// args.x.
template <bool kAligned, bool kSums, int kGroup, class T>
__global__ void __launch_bounds__(kThreads, 5)
    normalise_rows(LayerNormForward<T> args, cuda::DropoutMask mask, float scale) {
  __shared__ float shared[kWarps];
  const float count = static_cast<float>(args.x.columns());
  const auto mean_of_group = [&](float value) {
    if constexpr (kGroup == kThreads) return cuda::block_sum<kThreads>(value, shared) / count;
    if constexpr (kGroup < kThreads) return cuda::warp_sum<kGroup>(value) / count;
  };
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kGroup) + threadIdx.x / kGroup;
  // Threads without a row have no columns, but take part in the sums of their warp.
  const int64_t columns = row < args.x.rows() ? args.x.columns() : 0;
  const T* x = kSums ? args.sum.row(row) : args.x.row(row);

  float sum = 0;
  for_row<kAligned, kGroup>(columns, [&](int64_t c, auto lanes) {
    if constexpr (kSums) store_sum(args, mask, scale, row, c, lanes);
    const cuda::Four values = lanes.load(x + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += values.at[k];
  });
  const float mean = mean_of_group(sum);

  float squares = 0;
  for_row<kAligned, kGroup>(columns, [&](int64_t c, auto lanes) {
    const cuda::Four values = lanes.load(x + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float centred = lanes.holds(k) ? values.at[k] - mean : 0.0f;
      squares += centred * centred;
    }
  });
  const float inverse_std = 1 / sqrtf(mean_of_group(squares) + args.epsilon);

  for_row<kAligned, kGroup>(columns, [&](int64_t c, auto lanes) {
    const cuda::Four gamma = lanes.load(args.gamma.data() + c), beta = lanes.load(args.beta.data() + c);
    cuda::Four values = lanes.load(x + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = (values.at[k] - mean) * inverse_std * gamma.at[k] + beta.at[k];
    lanes.store(values, args.y.row(row) + c);
  });
  if (threadIdx.x % kGroup == 0 && row < args.x.rows()) {
    args.mean[row] = mean;
    args.inverse_std[row] = inverse_std;
  }
}

// Of the header's formulas.
struct RowMeans {
  float g, gn;
};

// By kGroup threads, a warp or half of one; a row that does not exist has no columns.
template <bool kAligned, int kGroup, class T>
__device__ RowMeans find_means(const LayerNormBackward<T>& args, int64_t row) {
  const bool exists = row < args.sum.rows();
  const float mean = exists ? args.mean[row] : 0.0f, inverse_std = exists ? args.inverse_std[row] : 0.0f;
  float g_sum = 0, gn_sum = 0;
  for_row<kAligned, kGroup>(exists ? args.sum.columns() : 0, [&](int64_t c, auto lanes) {
    const cuda::Four dy = lanes.load(args.dy.row(row) + c), gamma = lanes.load(args.gamma.data() + c);
    const cuda::Four x = lanes.load(args.sum.row(row) + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      // Beyond a row's end dy is loaded as zero, which makes every term zero.
      const float g = __fmul_rn(dy.at[k], gamma.at[k]);
      g_sum += g;
      gn_sum += g * ((x.at[k] - mean) * inverse_std);
    }
  });
  const float count = static_cast<float>(args.sum.columns());
  return {cuda::warp_sum<kGroup>(g_sum) / count, cuda::warp_sum<kGroup>(gn_sum) / count};
}

// The masks of kRows rows in kSpan columns. By the whole block.
using KeptBits = uint8_t[kRows][kSpan / cuda::kMaskColumns];
__device__ void draw_masks(const cuda::DropoutMask& mask, int64_t begin, int rows, int64_t first_column,
                           int64_t columns, KeptBits& kept) {
  constexpr int kChunks = kSpan / cuda::kMaskColumns;
  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (row < rows && first_column + chunk * cuda::kMaskColumns < columns) {
      kept[row][chunk] = mask.kept_bits(begin + row, first_column / cuda::kMaskColumns + chunk);
    }
  }
  __syncthreads();
}

template <bool kAligned, int kGroup, class T>
__global__ void add_gradients(LayerNormBackward<T> args, cuda::DropoutMask mask, float scale, float* partials) {
  __shared__ RowMeans means[kRows];
  __shared__ KeptBits kept;
  __shared__ float gamma_sums[kWarps][cuda::kWarp], beta_sums[kWarps][cuda::kWarp], bias_sums[kWarps][cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int64_t columns = args.sum.columns(), begin = int64_t{blockIdx.x} * kRows;
  const int rows = static_cast<int>(min(int64_t{kRows}, args.sum.rows() - begin));
  for (int row = threadIdx.x / kGroup; row < kRows; row += kThreads / kGroup) {
    const RowMeans found = find_means<kAligned, kGroup>(args, begin + row);
    if (threadIdx.x % kGroup == 0) means[row] = found;
  }
  __syncthreads();
  for (int64_t c = lane; c - lane < columns; c += cuda::kWarp) {
    const int in_span = static_cast<int>(c % kSpan);
    if (mask.drops() && in_span == lane) draw_masks(mask, begin, rows, c - lane, columns, kept);
    float gamma_sum = 0, beta_sum = 0, bias_sum = 0;
    if (c < columns) {
#pragma unroll
      for (int row = warp; row < kRows; row += kWarps) {
        if (row >= rows) break;
        const int64_t r = begin + row;
        const float dy = cuda::load(args.dy.row(r) + c);
        const float n = (cuda::load(args.sum.row(r) + c) - args.mean[r]) * args.inverse_std[r];
        // g is rounded as it was when summed: a row of equal g then has exactly no gradient.
        const float g = __fmul_rn(dy, args.gamma[c]) - means[row].g;
        const float others = args.dsum ? cuda::load(args.dsum.row(r) + c) : 0.0f;
        const float total = others + args.inverse_std[r] * (g - n * means[row].gn);
        const bool dropped = mask.drops() && (kept[row][in_span / 8] >> in_span % 8 & 1) == 0;
        const float kept_total = dropped ? 0.0f : total * scale;
        T* dx = args.dx.row(r) + c;
        cuda::store(args.dbias ? kept_total : cuda::load(dx) + kept_total, dx);
        if (args.dresidual) {
          T* dresidual = args.dresidual.row(r) + c;
          cuda::store(cuda::load(dresidual) + total, dresidual);
        }
        gamma_sum += dy * n;
        beta_sum += dy;
        bias_sum += kept_total;
      }
    }
    gamma_sums[warp][lane] = gamma_sum;
    beta_sums[warp][lane] = beta_sum;
    bias_sums[warp][lane] = bias_sum;
    __syncthreads();
    float* partial = partials + blockIdx.x * (args.dbias ? 3 : 2) * columns + c;
    if (warp == 0 && c < columns) partial[0] = cuda::add_warps(gamma_sums, lane);
    if (warp == 1 && c < columns) partial[columns] = cuda::add_warps(beta_sums, lane);
    if (warp == 2 && c < columns && args.dbias) partial[2 * columns] = cuda::add_warps(bias_sums, lane);
    __syncthreads();
  }
}

template <bool kAligned, bool kSums, int kGroup, class T>
void start_forward(CudaStream stream, const LayerNormForward<T>& args) {
  cuda::start(stream, "layer_norm_forward", normalise_rows<kAligned, kSums, kGroup, T>,
              cuda::grid(block_count(args.x.rows(), kThreads / kGroup)), kThreads, 0, args,
              cuda::DropoutMask(args.row_ids, args.probability, args.key), dropout_scale(args.probability));
}

template <bool kAligned, bool kSums, class T>
void start_forward(CudaStream stream, const LayerNormForward<T>& args) {
  if (args.x.columns() <= kLongestHalfRow) return start_forward<kAligned, kSums, kHalfWarp>(stream, args);
  if (args.x.columns() <= kLongestWarpRow) return start_forward<kAligned, kSums, cuda::kWarp>(stream, args);
  start_forward<kAligned, kSums, kThreads>(stream, args);
}

template <class T>
void forward(CudaStream stream, const LayerNormForward<T>& args) {
  const bool aligned =
      args.x.columns() % 4 == 0 && cuda::fours_aligned(args.x.data(), args.residual.data(), args.gamma.data(),
                                                       args.beta.data(), args.sum.data(), args.y.data());
  if (args.sum) {
    aligned ? start_forward<true, true>(stream, args) : start_forward<false, true>(stream, args);
  } else {
    aligned ? start_forward<true, false>(stream, args) : start_forward<false, false>(stream, args);
  }
}

template <bool kAligned, int kGroup, class T>
void start_backward(CudaStream stream, const LayerNormBackward<T>& args) {
  const int64_t columns = args.sum.columns(), blocks = block_count(args.sum.rows(), kRows);
  const int64_t stride = args.sums_columns();
  float* partials = reinterpret_cast<float*>(stream.context->scratch(scratch_bytes(stream, args)));
  cuda::start(stream, "layer_norm_backward", add_gradients<kAligned, kGroup, T>, cuda::grid(blocks), kThreads, 0, args,
              cuda::DropoutMask(args.row_ids, args.probability, args.key), dropout_scale(args.probability), partials);
  cuda::add_partials(stream, {.rows = partials, .count = blocks, .columns = columns, .stride = stride},
                     args.dgamma.data(), args.dbeta.data(), args.dbias.data());
}

template <class T>
void backward(CudaStream stream, const LayerNormBackward<T>& args) {
  const int64_t columns = args.sum.columns();
  if (args.sum.rows() == 0 || columns == 0) return;
  const bool aligned = columns % 4 == 0 && cuda::fours_aligned(args.dy.data(), args.sum.data(), args.gamma.data());
  if (columns <= kLongestHalfRow) {
    aligned ? start_backward<true, kHalfWarp>(stream, args) : start_backward<false, kHalfWarp>(stream, args);
  } else {
    aligned ? start_backward<true, cuda::kWarp>(stream, args) : start_backward<false, cuda::kWarp>(stream, args);
  }
}

}  // namespace cuda_layer_norm

void launch(CudaStream stream, const LayerNormForward<float>& args) {
  cuda_layer_norm::forward(stream, args);
}

void launch(CudaStream stream, const LayerNormForward<Bf16>& args) {
  cuda_layer_norm::forward(stream, args);
}

void launch(CudaStream stream, const LayerNormBackward<float>& args) {
  cuda_layer_norm::backward(stream, args);
}

void launch(CudaStream stream, const LayerNormBackward<Bf16>& args) {
  cuda_layer_norm::backward(stream, args);
}

}  // namespace itemloom
