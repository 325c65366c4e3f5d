// Forward: one warp a row of up to kLongestWarpRow columns, one block a longer one. A row is read three times, for its
// mean, its variance and its output, the second and third time from the cache.
// Backward: one block kRows rows. First a warp finds the row means of g and of g n, one row after the other; then the
// block goes over its rows in tiles of 32 columns, which are in the cache by now, adds into dx, and sums dgamma and
// dbeta into a partial row.
#include "kernels/layer_norm.h"

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/partials.cuh"

namespace itemloom {
namespace cuda_layer_norm {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int64_t kLongestWarpRow = 1024;
constexpr int kRows = kLayerNormSumRows;

// body(column, lanes) for the fours of a row that fall to this of kGroup threads.
template <bool kAligned, int kGroup, class Body>
__device__ void for_row(int64_t columns, Body body) {
  for (int64_t c = threadIdx.x % kGroup * 4; c < columns; c += 4 * kGroup) {
    cuda::with_lanes<kAligned>(columns - c, [&](auto lanes) { body(c, lanes); });
  }
}

// kGroup threads a row: a warp or the whole block.
template <bool kAligned, int kGroup, class T>
__global__ void normalise_rows(LayerNormForward<T> args) {
  __shared__ float shared[kWarps];
  const auto sum_of_group = [&](float value) {
    return kGroup == kThreads ? cuda::block_sum<kThreads>(value, shared) : cuda::warp_sum(value);
  };
  const int64_t columns = args.x.columns();
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kGroup) + threadIdx.x / kGroup;
  if (row >= args.x.rows()) return;
  const T* x = args.x.row(row);

  float sum = 0;
  for_row<kAligned, kGroup>(columns, [&](int64_t c, auto lanes) {
    const cuda::Four values = lanes.load(x + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += values.at[k];
  });
  const float mean = sum_of_group(sum) / static_cast<float>(columns);

  float squares = 0;
  for_row<kAligned, kGroup>(columns, [&](int64_t c, auto lanes) {
    const cuda::Four values = lanes.load(x + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float centred = lanes.holds(k) ? values.at[k] - mean : 0.0f;
      squares += centred * centred;
    }
  });
  const float inverse_std = 1 / sqrtf(sum_of_group(squares) / static_cast<float>(columns) + args.epsilon);

  for_row<kAligned, kGroup>(columns, [&](int64_t c, auto lanes) {
    const cuda::Four gamma = lanes.load(args.gamma.data() + c), beta = lanes.load(args.beta.data() + c);
    cuda::Four values = lanes.load(x + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = (values.at[k] - mean) * inverse_std * gamma.at[k] + beta.at[k];
    lanes.store(values, args.y.row(row) + c);
  });
  if (threadIdx.x % kGroup == 0) {
    args.mean[row] = mean;
    args.inverse_std[row] = inverse_std;
  }
}

// With n = (x - mean) inverse_std and g = dy gamma:
//   dx += inverse_std (g - mean_c(g) - n mean_c(g n)),  dgamma += sum_r dy n,  dbeta += sum_r dy.
struct RowMeans {
  float g, gn;
};

// By one warp.
template <bool kAligned, class T>
__device__ RowMeans find_means(const LayerNormBackward<T>& args, int64_t row) {
  const int64_t columns = args.x.columns();
  const float mean = args.mean[row], inverse_std = args.inverse_std[row];
  float g_sum = 0, gn_sum = 0;
  for_row<kAligned, cuda::kWarp>(columns, [&](int64_t c, auto lanes) {
    const cuda::Four dy = lanes.load(args.dy.row(row) + c), gamma = lanes.load(args.gamma.data() + c);
    const cuda::Four x = lanes.load(args.x.row(row) + c);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      // Beyond a row's end dy is loaded as zero, which makes every term zero.
      const float g = __fmul_rn(dy.at[k], gamma.at[k]);
      g_sum += g;
      gn_sum += g * ((x.at[k] - mean) * inverse_std);
    }
  });
  const float count = static_cast<float>(columns);
  return {cuda::warp_sum(g_sum) / count, cuda::warp_sum(gn_sum) / count};
}

template <bool kAligned, class T>
__global__ void add_gradients(LayerNormBackward<T> args, float* partials) {
  __shared__ RowMeans means[kRows];
  __shared__ float gamma_sums[kWarps][cuda::kWarp], beta_sums[kWarps][cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int64_t columns = args.x.columns(), begin = int64_t{blockIdx.x} * kRows;
  const int rows = static_cast<int>(min(int64_t{kRows}, args.x.rows() - begin));
  for (int row = warp; row < rows; row += kWarps) {
    const RowMeans found = find_means<kAligned>(args, begin + row);
    if (lane == 0) means[row] = found;
  }
  __syncthreads();
  for (int64_t c = lane; c - lane < columns; c += cuda::kWarp) {
    float gamma_sum = 0, beta_sum = 0;
    if (c < columns) {
#pragma unroll
      for (int row = warp; row < kRows; row += kWarps) {
        if (row >= rows) break;
        const int64_t r = begin + row;
        const float dy = cuda::load(args.dy.row(r) + c);
        const float n = (cuda::load(args.x.row(r) + c) - args.mean[r]) * args.inverse_std[r];
        // g is rounded as it was when summed: a row of equal g then has exactly no gradient.
        const float g = __fmul_rn(dy, args.gamma[c]) - means[row].g;
        T* dx = args.dx.row(r) + c;
        cuda::store(cuda::load(dx) + args.inverse_std[r] * (g - n * means[row].gn), dx);
        gamma_sum += dy * n;
        beta_sum += dy;
      }
    }
    gamma_sums[warp][lane] = gamma_sum;
    beta_sums[warp][lane] = beta_sum;
    __syncthreads();
    float* partial = partials + blockIdx.x * 2 * columns + c;
    if (warp == 0 && c < columns) partial[0] = cuda::add_warps(gamma_sums, lane);
    if (warp == 1 && c < columns) partial[columns] = cuda::add_warps(beta_sums, lane);
    __syncthreads();
  }
}

template <bool kAligned, class T>
void start_forward(CudaStream stream, const LayerNormForward<T>& args) {
  constexpr int kRowsPerBlock = kThreads / cuda::kWarp;
  if (args.x.columns() > kLongestWarpRow) {
    cuda::start(stream, "layer_norm_forward", normalise_rows<kAligned, kThreads, T>, cuda::grid(args.x.rows()),
                kThreads, 0, args);
  } else {
    cuda::start(stream, "layer_norm_forward", normalise_rows<kAligned, cuda::kWarp, T>,
                cuda::grid(block_count(args.x.rows(), kRowsPerBlock)), kThreads, 0, args);
  }
}

template <class T>
void forward(CudaStream stream, const LayerNormForward<T>& args) {
  const bool aligned = args.x.columns() % 4 == 0 &&
                       cuda::fours_aligned(args.x.data(), args.gamma.data(), args.beta.data(), args.y.data());
  aligned ? start_forward<true>(stream, args) : start_forward<false>(stream, args);
}

template <class T>
void backward(CudaStream stream, const LayerNormBackward<T>& args) {
  const int64_t columns = args.x.columns(), blocks = block_count(args.x.rows(), kRows);
  if (blocks == 0 || columns == 0) return;
  const bool aligned = columns % 4 == 0 && cuda::fours_aligned(args.dy.data(), args.x.data(), args.gamma.data());
  float* partials = reinterpret_cast<float*>(stream.context->scratch(scratch_bytes(stream, args)));
  cuda::start(stream, "layer_norm_backward", aligned ? add_gradients<true, T> : add_gradients<false, T>,
              cuda::grid(blocks), kThreads, 0, args, partials);
  cuda::add_partials(stream, {.rows = partials, .count = blocks, .columns = columns, .stride = 2 * columns},
                     args.dgamma.data(), args.dbeta.data());
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
