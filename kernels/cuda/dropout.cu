// One thread four columns of one row. A Philox block decides on eight, so that two threads draw each: a thread with all
// eight would take the two halves of each sector of memory one after the other.
// Products and sums are rounded one by one, as on the CPU: both devices give the same bits.
#include "kernels/dropout.h"

#include "kernels/cuda/dropout_mask.cuh"
#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_dropout {

using cuda::KeptFour, cuda::kMaskColumns;

// For body(i, lanes, kept), i counting from the matrix's start.
template <class Body>
struct DrawnKept {
  int64_t columns;
  cuda::DropoutMask mask;
  Body body;
  template <class Lanes>
  __device__ void operator()(int64_t row, int64_t column, Lanes lanes) const {
    const KeptFour kept = mask.kept(mask.draw(row, column / kMaskColumns), column % kMaskColumns != 0);
    body(row * columns + column, lanes, kept);
  }
};

// Where nothing is drawn.
template <class Body>
struct AllKept {
  Body body;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    body(i, lanes, KeptFour{{true, true, true, true}});
  }
};

template <class T>
struct ForwardFours {
  const T *x, *residual;
  T* y;
  float scale;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes, const KeptFour& kept) const {
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
  __device__ void operator()(int64_t i, Lanes lanes, const KeptFour& kept) const {
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
  const cuda::DropoutMask mask(args.row_ids, args.probability, args.key);
  if (!mask.drops()) {
    return cuda::start_fours(stream, name, rows * columns, aligned, AllKept<Body>{body});
  }
  cuda::start_fours_of_rows(stream, name, rows, columns, aligned, DrawnKept<Body>{columns, mask, body});
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
