// One thread four elements.
#include "kernels/elementwise.h"

#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_elementwise {

struct FillFours {
  float value;
  float* y;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    lanes.store({value, value, value, value}, y + i);
  }
};

struct AddScaledFours {
  float scale;
  const float* x;
  float* y;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    const cuda::Four added = lanes.load(x + i);
    cuda::Four sum = lanes.load(y + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.at[k] += scale * added.at[k];
    lanes.store(sum, y + i);
  }
};

template <class From, class To>
struct ConvertFours {
  const From* x;
  To* y;
  template <class Lanes>
  __device__ void operator()(int64_t i, Lanes lanes) const {
    lanes.store(lanes.load(x + i), y + i);
  }
};

template <class From, class To>
void convert(CudaStream stream, const Convert<From, To>& args) {
  const cuda::Place place = args.stream ? cuda::Place(stream, args.stream) : cuda::Place(stream);
  cuda::start_fours(place, "convert", args.y.size(), cuda::fours_aligned(args.x.data(), args.y.data()),
                    ConvertFours<From, To>{args.x.data(), args.y.data()});
}

}  // namespace cuda_elementwise

void launch(CudaStream stream, const Fill& args) {
  cuda::start_fours(stream, "fill", args.y.size(), cuda::fours_aligned(args.y.data()),
                    cuda_elementwise::FillFours{args.value, args.y.data()});
}

void launch(CudaStream stream, const AddScaled& args) {
  cuda::start_fours(stream, "add_scaled", args.y.size(), cuda::fours_aligned(args.x.data(), args.y.data()),
                    cuda_elementwise::AddScaledFours{args.scale, args.x.data(), args.y.data()});
}

void launch(CudaStream stream, const Convert<float, Bf16>& args) {
  cuda_elementwise::convert(stream, args);
}

void launch(CudaStream stream, const Convert<Bf16, float>& args) {
  cuda_elementwise::convert(stream, args);
}

}  // namespace itemloom
