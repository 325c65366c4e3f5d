// One thread a chunk of eight columns of one row, which is what one Philox block decides on, in two halves of four.
// Products and sums are rounded one by one, as on the CPU: both devices give the same bits.
#include "kernels/dropout.h"

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_dropout {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8;

struct Mask {
  const uint32_t* row_ids;
  DropoutKey key;
  uint32_t threshold;

  __device__ PhiloxBlock draw(int64_t row, int64_t chunk) const {
    return philox({static_cast<uint32_t>(chunk), key.stream, row_ids[row], key.step()}, static_cast<uint32_t>(key.seed),
                  static_cast<uint32_t>(key.seed >> 32));
  }
};

struct Kept {
  bool at[4];
};

// body(i, lanes, kept) for every four elements, i counting from the matrix's start.
template <bool kAligned, class Body>
__global__ void for_masked_rows(int64_t rows, int64_t columns, Mask mask, Body body) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row_chunks = block_count(columns, kChunk);
  const int64_t row = index / row_chunks, chunk = index % row_chunks;
  if (row >= rows) return;
  const PhiloxBlock words = mask.draw(row, chunk);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t low = words[2 * half], high = words[2 * half + 1];
    const Kept kept{{(low & 0xFFFF) >= mask.threshold, low >> 16 >= mask.threshold, (high & 0xFFFF) >= mask.threshold,
                     high >> 16 >= mask.threshold}};
    const int64_t column = chunk * kChunk + 4 * half;
    if (column >= columns) return;
    cuda::with_lanes<kAligned>(columns - column, [&](auto lanes) { body(row * columns + column, lanes, kept); });
  }
}

// Where nothing is drawn.
template <class Body>
struct AllKept {
  Body body;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    body(i, lanes, Kept{{true, true, true, true}});
  }
};

template <class T>
struct ForwardFours {
  const T *x, *residual;
  T* y;
  float scale;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes, const Kept& kept) const {
    cuda::Four values = lanes.load(x + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) values.at[k] = kept.at[k] ? __fmul_rn(values.at[k], scale) : 0.0f;
    if (residual) {
      const cuda::Four rest = lanes.load(residual + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) values.at[k] = __fadd_rn(rest.at[k], values.at[k]);
    }
    lanes.store(values, y + i);
  }
};

template <class T>
struct BackwardFours {
  const T* dy;
  T *dx, *dresidual;
  float scale;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes, const Kept& kept) const {
    const cuda::Four gradient = lanes.load(dy + i);
    cuda::Four sum = lanes.load(dx + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sum.at[k] = __fadd_rn(sum.at[k], kept.at[k] ? __fmul_rn(gradient.at[k], scale) : 0.0f);
    }
    lanes.store(sum, dx + i);
    if (dresidual) {
      cuda::Four rest = lanes.load(dresidual + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) rest.at[k] = __fadd_rn(rest.at[k], gradient.at[k]);
      lanes.store(rest, dresidual + i);
    }
  }
};

// For DropoutForward and DropoutBackward; `shape` is any matrix of theirs.
template <class Arguments, class T, class Body>
void start(CudaStream stream, const char* name, const Arguments& args, Matrix<T> shape, bool aligned,
           const Body& body) {
  const int64_t rows = shape.rows(), columns = shape.columns();
  const Mask mask{args.row_ids.data(), args.key, dropout_threshold(args.probability)};
  if (mask.threshold == 0) {
    return cuda::start_fours(stream, name, rows * columns, aligned, AllKept<Body>{body});
  }
  cuda::start(stream, name, aligned && columns % 4 == 0 ? for_masked_rows<true, Body> : for_masked_rows<false, Body>,
              cuda::grid(block_count(rows * block_count(columns, kChunk), kThreads)), kThreads, 0, rows, columns, mask,
              body);
}

template <class T>
void forward(CudaStream stream, const DropoutForward<T>& args) {
  const ForwardFours<T> body{args.x.data(), args.residual.data(), args.y.data(), dropout_scale(args.probability)};
  start(stream, "dropout_forward", args, args.x, cuda::fours_aligned(body.x, body.residual, body.y), body);
}

template <class T>
void backward(CudaStream stream, const DropoutBackward<T>& args) {
  const BackwardFours<T> body{args.dy.data(), args.dx.data(), args.dresidual.data(), dropout_scale(args.probability)};
  start(stream, "dropout_backward", args, args.dy, cuda::fours_aligned(body.dy, body.dx, body.dresidual), body);
}

}  // namespace cuda_dropout

void launch(CudaStream stream, const DropoutForward<float>& args) {
  cuda_dropout::forward(stream, args);
}

void launch(CudaStream stream, const DropoutForward<Bf16>& args) {
  cuda_dropout::forward(stream, args);
}

void launch(CudaStream stream, const DropoutBackward<float>& args) {
  cuda_dropout::backward(stream, args);
}

void launch(CudaStream stream, const DropoutBackward<Bf16>& args) {
  cuda_dropout::backward(stream, args);
}

}  // namespace itemloom
