// A block a row: its threads share the catalogue, one target after the other, which find the row's scores in the cache.
#include "kernels/rank_counts.h"

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/fours.cuh"

namespace itemloom {
namespace cuda_rank_counts {

constexpr int kThreads = 256;
using Fours = cuda::RowFour<kThreads>;

struct Tally {
  int above = 0, equal = 0;

  __device__ void add(float score, float threshold) {
    above += !(score <= threshold);
    equal += score == threshold;
  }
  // Of the block, in every thread.
  __device__ Tally summed(int* shared) const {
    Tally total;
    total.above = cuda::block_sum<kThreads>(above, shared);
    total.equal = cuda::block_sum<kThreads>(equal, shared);
    return total;
  }
};

__global__ void __launch_bounds__(kThreads) count_ranks(CountRanks args) {
  __shared__ int shared[kThreads / cuda::kWarp];
  const int64_t row = blockIdx.x, columns = args.scores.columns();
  const float* scores = args.scores.row(row);
  for (int64_t target = args.target_offsets[row]; target < args.target_offsets[row + 1]; ++target) {
    const float threshold = scores[args.targets[target]];
    Tally all, seen;
    for (int64_t begin = Fours::first_column(scores); begin < columns; begin += kThreads * 4) {
      const Fours four(begin, columns);
      const cuda::Four values = four.load(scores, 0);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (four.holds(k)) all.add(values.at[k], threshold);
      }
    }
    for (int64_t place = args.seen_offsets[row] + threadIdx.x; place < args.seen_offsets[row + 1]; place += kThreads) {
      seen.add(scores[args.seen[place]], threshold);
    }
    all = all.summed(shared);
    seen = seen.summed(shared);
    if (threadIdx.x == 0) args.counts[target] = {all.above, all.equal, seen.above, seen.equal};
  }
}

}  // namespace cuda_rank_counts

void launch(CudaStream stream, const CountRanks& args) {
  using namespace cuda_rank_counts;
  cuda::start(stream, "count_ranks", count_ranks, cuda::grid(args.scores.rows()), kThreads, 0, args);
}

}  // namespace itemloom
