// Embedding bags: every bag is the (weighted) sum or mean of table rows.
//
//   y[b] = scale_b * sum_{i in [bag_offsets[b], bag_offsets[b + 1])} w_i * table[ids[i]]
//
// w_i = weights[i], or 1 when weights is none(). Sum: scale_b = 1. Mean: scale_b = 1 / (number of ids in the bag), as
// torch.nn.EmbeddingBag; an empty bag gives zeros. When bag_offsets is none() every bag is one id (a plain lookup).
// Ids must lie in [0, table rows): checked where data enters, not here.
//
// Backward adds into dtable: the occurrences are sorted by id (stable), each id's run is summed in order of occurrence
// by one task, so the result is the same for any number of threads. Weights get no gradient.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

enum class BagMode { kSum, kMean };

template <class T>
struct EmbeddingBagForward {
  Matrix<const float> table;          // (R, C)
  Vector<const int32_t> ids;          // (number of ids)
  Vector<const int64_t> bag_offsets;  // (B + 1) ascending from 0 to ids.size(), or none(): B = ids.size()
  Vector<const float> weights;        // (number of ids), or none()
  BagMode mode;
  Matrix<T> y;  // (B, C), overwritten
};
void launch(CpuStream stream, const EmbeddingBagForward<float>& args);
void launch(CudaStream stream, const EmbeddingBagForward<float>& args);
void launch(CudaStream stream, const EmbeddingBagForward<Bf16>& args);

template <class T>
struct EmbeddingBagBackward {
  Matrix<const T> dy;  // (B, C)
  Vector<const int32_t> ids;
  Vector<const int64_t> bag_offsets;
  Vector<const float> weights;
  BagMode mode;
  Matrix<float> dtable;  // (R, C), added into
};
void launch(CpuStream stream, const EmbeddingBagBackward<float>& args);
void launch(CudaStream stream, const EmbeddingBagBackward<float>& args);
void launch(CudaStream stream, const EmbeddingBagBackward<Bf16>& args);

int64_t scratch_bytes(CpuStream stream, const EmbeddingBagBackward<float>& args);

// Occurrences of an id that are summed into one partial row on CUDA.
inline constexpr int64_t kEmbeddingBagPiece = 64;
// What a radix sort of so many pairs of 32 bits takes on CUDA, at most: another copy of them and counters.
constexpr int64_t most_sort_bytes(int64_t pairs) {
  return 9 * pairs + (int64_t{1} << 20);
}
template <class T>
int64_t scratch_bytes(CudaStream, const EmbeddingBagBackward<T>& args) {
  const int64_t n = args.ids.size(), words = 4 * n;
  const int64_t partials = 2 * block_count(n, kEmbeddingBagPiece) * args.dtable.columns() * int64_t{sizeof(float)};
  return cuda_scratch_bytes({words, words, words, most_sort_bytes(n), words, words, words, 2 * words, partials});
}

}  // namespace itemloom
