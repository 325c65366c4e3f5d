// Forward: one thread four columns of a bag, which goes over the bag's ids in order.
//
// Backward: occurrences are sorted by id (radix sort, stable), so that those of one id are a run. A run is cut into
// pieces of kPiece occurrences from its start on, whatever else is in the batch. One thread adds up four columns of a
// piece in order of occurrence. A run of one piece goes into the table at once; the pieces of a longer one (a popular
// item, a mask token, a position) go to partial rows, and one block a run adds these up: each warp every eighth of
// them, then the warps' sums in order. Nobody but the run's own threads writes a table row.
#include "kernels/embedding_bag.h"

#include "kernels/cuda/carver.cuh"
#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/partials.cuh"
#include "kernels/cuda/sort_pairs.h"

namespace itemloom {
namespace cuda_embedding_bag {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int64_t kPiece = kEmbeddingBagPiece;

__device__ inline float mean_scale(BagMode mode, int64_t bag_size) {
  return mode == BagMode::kMean && bag_size > 0 ? 1.0f / static_cast<float>(bag_size) : 1.0f;
}

// sum += factor * addend
__device__ inline void add_scaled(float factor, const cuda::Four& addend, cuda::Four& sum) {
#pragma unroll
  for (int k = 0; k < 4; ++k) sum.at[k] += factor * addend.at[k];
}

template <class T>
struct BagFours {
  EmbeddingBagForward<T> args;
  template <class Lanes>
  __device__ void operator()(int64_t bag, int64_t column, Lanes lanes) const {
    const int64_t begin = args.bag_offsets ? args.bag_offsets[bag] : bag;
    const int64_t end = args.bag_offsets ? args.bag_offsets[bag + 1] : bag + 1;
    cuda::Four sum = {};
#pragma unroll 4
    for (int64_t i = begin; i < end; ++i) {
      add_scaled(args.weights ? args.weights[i] : 1.0f, lanes.load(args.table.row(args.ids[i]) + column), sum);
    }
    const float scale = mean_scale(args.mode, end - begin);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum.at[k] *= scale;
    lanes.store(sum, args.y.row(bag) + column);
  }
};

// What begins at a place of the sorted occurrences: a piece of `length` of them, or nothing (0). `partial` is the row
// of partial sums it goes to, or -1 when it goes into the table. Aligned, so that it is read and written at once.
struct alignas(8) Piece {
  int32_t length;
  int32_t partial;
};

// Places are those of the sorted occurrences.
struct Sorted {
  uint32_t* ids;     // (n)
  int32_t* rows;     // (n) the row of dy
  float* factors;    // (n)
  Piece* pieces;     // (n)
  float* partials;   // 2 * slots rows of C
  int64_t n, slots;  // slots = ceil(n / kPiece)
  __device__ bool is_long(int64_t start) const { return start + kPiece < n && ids[start + kPiece] == ids[start]; }
  // At most one long run starts in each kPiece places, and one later piece of a long run: their places number them.
  __device__ int64_t first_partial(int64_t place) const { return place / kPiece; }
  __device__ int64_t later_partial(int64_t place) const { return slots + place / kPiece; }
};

// The first place of [begin, end) whose id is not below `id`, or end.
__device__ inline int64_t lower_bound(const uint32_t* ids, int64_t begin, int64_t end, uint32_t id) {
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (ids[middle] < id) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

__global__ void number_occurrences(Vector<const int32_t> ids, uint32_t* keys, int32_t* occurrences) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= ids.size()) return;
  keys[i] = static_cast<uint32_t>(ids[i]);
  occurrences[i] = static_cast<int32_t>(i);
}

// The bag that occurrence i is in: the last one that begins at or before it.
__device__ inline int64_t bag_of(Vector<const int64_t> bag_offsets, int64_t i) {
  int64_t begin = 0, end = bag_offsets.size() - 1;
  while (end - begin > 1) {
    const int64_t middle = begin + (end - begin) / 2;
    (bag_offsets[middle] <= i ? begin : end) = middle;
  }
  return begin;
}

template <class T>
__global__ void cut_runs(EmbeddingBagBackward<T> args, const int32_t* occurrences, Sorted sorted) {
  const int64_t place = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (place >= sorted.n) return;
  const int64_t occurrence = occurrences[place];
  int64_t bag = occurrence;
  float factor = args.weights ? args.weights[occurrence] : 1.0f;
  if (args.bag_offsets) {
    bag = bag_of(args.bag_offsets, occurrence);
    factor *= mean_scale(args.mode, args.bag_offsets[bag + 1] - args.bag_offsets[bag]);
  }
  sorted.rows[place] = static_cast<int32_t>(bag);
  sorted.factors[place] = factor;

  const uint32_t id = sorted.ids[place];
  const bool is_start = place == 0 || sorted.ids[place - 1] != id;
  const int64_t start = is_start ? place : lower_bound(sorted.ids, 0, place, id);
  Piece piece{0, -1};
  if ((place - start) % kPiece == 0) {
    const int64_t limit = min(place + kPiece, sorted.n);
    piece.length = static_cast<int32_t>(lower_bound(sorted.ids, place, limit, id + 1) - place);
    if (sorted.is_long(start)) {
      piece.partial = static_cast<int32_t>(is_start ? sorted.first_partial(place) : sorted.later_partial(place));
    }
  }
  sorted.pieces[place] = piece;
}

template <class T>
struct PieceFours {
  Matrix<const T> dy;
  Sorted sorted;
  Matrix<float> dtable;
  template <class Lanes>
  __device__ void operator()(int64_t place, int64_t column, Lanes lanes) const {
    const Piece piece = sorted.pieces[place];
    if (piece.length == 0) return;
    cuda::Four sum = {};
#pragma unroll 4
    for (int64_t i = place; i < place + piece.length; ++i) {
      add_scaled(sorted.factors[i], lanes.load(dy.row(sorted.rows[i]) + column), sum);
    }
    if (piece.partial >= 0) {
      lanes.store(sum, sorted.partials + piece.partial * dtable.columns() + column);
    } else {
      float* to = dtable.row(sorted.ids[place]) + column;
      add_scaled(1.0f, lanes.load(to), sum);
      lanes.store(sum, to);
    }
  }
};

// The block's long run is the one that starts in its kPiece places, if one does.
__global__ void add_long_runs(Sorted sorted, Matrix<float> dtable) {
  __shared__ int64_t found;
  __shared__ float sums[kWarps][cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  if (threadIdx.x == 0) found = -1;
  __syncthreads();
  const int64_t place = blockIdx.x * kPiece + threadIdx.x;
  if (threadIdx.x < kPiece && place < sorted.n && sorted.is_long(place) &&
      (place == 0 || sorted.ids[place - 1] != sorted.ids[place])) {
    found = place;
  }
  __syncthreads();
  const int64_t start = found;
  if (start < 0) return;
  const uint32_t id = sorted.ids[start];
  const int64_t count = block_count(lower_bound(sorted.ids, start, sorted.n, id + 1) - start, kPiece);
  const int64_t columns = dtable.columns();
  for (int64_t column = lane; column - lane < columns; column += cuda::kWarp) {
    float sum = 0;
    if (column < columns) {
#pragma unroll 4
      for (int64_t piece = warp; piece < count; piece += kWarps) {
        const int64_t at = start + piece * kPiece;
        sum += sorted.partials[(piece == 0 ? sorted.first_partial(at) : sorted.later_partial(at)) * columns + column];
      }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < columns) dtable.row(id)[column] += cuda::add_warps(sums, lane);
    __syncthreads();
  }
}

// The bits that ids below `rows` have.
int id_bits(int64_t rows) {
  int bits = 1;
  while ((int64_t{1} << bits) < rows) ++bits;
  return bits;
}

// Sorts the occurrences and cuts them into pieces, all in the launch's scratch memory.
template <class T>
Sorted sort_occurrences(CudaStream stream, const EmbeddingBagBackward<T>& args) {
  const int64_t n = args.ids.size(), columns = args.dtable.columns();
  const cuda::SortPairs sort{.count = n, .bits = id_bits(args.dtable.rows())};
  Sorted sorted{};
  uint32_t* ids = nullptr;
  int32_t *occurrences = nullptr, *sorted_occurrences = nullptr;
  std::byte* sort_memory = nullptr;
  sorted.n = n;
  sorted.slots = block_count(n, kPiece);
  cuda::carve_scratch(stream, [&](cuda::Carver& carver) {
    ids = carver.take<uint32_t>(n);
    occurrences = carver.take<int32_t>(n);
    sorted_occurrences = carver.take<int32_t>(n);
    sort_memory = carver.take<std::byte>(sort.working_bytes());
    sorted.ids = carver.take<uint32_t>(n);
    sorted.rows = carver.take<int32_t>(n);
    sorted.factors = carver.take<float>(n);
    sorted.pieces = carver.take<Piece>(n);
    sorted.partials = carver.take<float>(2 * sorted.slots * columns);
  });
  const dim3 blocks = cuda::grid(block_count(n, kThreads));
  cuda::start(stream, "number_occurrences", number_occurrences, blocks, kThreads, 0, args.ids, ids, occurrences);
  sort.run(stream, sort_memory, ids, occurrences, sorted.ids, sorted_occurrences);
  cuda::start(stream, "cut_runs", cut_runs<T>, blocks, kThreads, 0, args, sorted_occurrences, sorted);
  return sorted;
}

template <class T>
void forward(CudaStream stream, const EmbeddingBagForward<T>& args) {
  cuda::start_fours_of_rows(stream, "embedding_bag_forward", args.y.rows(), args.y.columns(),
                            cuda::fours_aligned(args.table.data(), args.y.data()), BagFours<T>{args});
}

template <class T>
void backward(CudaStream stream, const EmbeddingBagBackward<T>& args) {
  const int64_t n = args.ids.size();
  if (n == 0 || args.dtable.columns() == 0) return;
  CHECK(n <= INT32_MAX, "a batch has ", n, " ids, more than 2^31 - 1; lower training.micro_batch_tokens");
  const Sorted sorted = sort_occurrences(stream, args);
  cuda::start_fours_of_rows(stream, "embedding_bag_backward", n, args.dtable.columns(),
                            cuda::fours_aligned(args.dy.data(), args.dtable.data()),
                            PieceFours<T>{args.dy, sorted, args.dtable});
  cuda::start(stream, "embedding_bag_long_runs", add_long_runs, cuda::grid(sorted.slots), kThreads, 0, sorted,
              args.dtable);
}

}  // namespace cuda_embedding_bag

void launch(CudaStream stream, const EmbeddingBagForward<float>& args) {
  cuda_embedding_bag::forward(stream, args);
}

void launch(CudaStream stream, const EmbeddingBagForward<Bf16>& args) {
  cuda_embedding_bag::forward(stream, args);
}

void launch(CudaStream stream, const EmbeddingBagBackward<float>& args) {
  cuda_embedding_bag::backward(stream, args);
}

void launch(CudaStream stream, const EmbeddingBagBackward<Bf16>& args) {
  cuda_embedding_bag::backward(stream, args);
}

}  // namespace itemloom
