// Softmax cross-entropy of masked rows over the whole catalogue, exact, without ever holding logits of M x V.
//
//   z[m][v] = hidden[m] . table[v] + bias[v]
//   loss    = sum_m (log sum_v exp(z[m][v]) - z[m][targets[m]])
//   dz      = softmax(z) - onehot(target)
//   dhidden += dz table,  dtable += dz^T hidden,  dbias[v] += sum_m dz[m][v]
//
// A row whose target is -1 fills up a batch and counts for nothing: its loss and its dz are 0.
//
// The loss is a sum: whoever knows the number of masked rows of all micro-batches and ranks divides once. Gradients
// come out of the same pass (the loss is the root of the tape, its own gradient is 1). When all three gradients are
// none() only the loss is computed. Rows are worked through in fixed chunks against the whole of V, so the workspace
// grows with V, C and the chunk, never with M. Every sum has a fixed order: the same bits for any number of threads.
// On CUDA the row losses are summed in a fixed tree instead of in row order, also in double. Logits and softmax are
// fp32 in any case; where hidden and table are bf16, dz is rounded to bf16 before the products and the sums over it.
// With tf32 (fp32 operands, CUDA only) the products' operands are rounded to 10 bits of fraction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/bf16.h"
#include "core/device.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

// A tile of logits on CUDA, and of their gradients, which are the same memory where T is float. It has as many rows as
// keep it within 1 GiB, but 16 to 1024: every tile reads the whole table and adds to its whole gradient, so a tile of
// few rows moves more of those than of logits.
inline constexpr int64_t kMostLossTileBytes = int64_t{1} << 30;
struct LossTile {
  int64_t rows, stride;  // rows begin where 16 bytes can be read at once
  int64_t bytes;
};
template <class T>
constexpr LossTile loss_tile(int64_t rows, int64_t items) {
  const int64_t stride = round_up(items, 16 / int64_t{sizeof(T)});
  const int64_t row_bytes = stride * (int64_t{sizeof(float)} + (std::is_same_v<T, float> ? 0 : int64_t{sizeof(T)}));
  rows = std::min(rows, std::clamp<int64_t>(kMostLossTileBytes / row_bytes, 16, 1024));
  return {rows, stride, rows * row_bytes};
}

template <class T>
struct MaskedItemLoss {
  Matrix<const T> hidden;         // (M, C)
  Matrix<const T> table;          // (V, C)
  Vector<const float> bias;       // (V), or none()
  Vector<const int32_t> targets;  // (M), each in [0, V), or -1
  Vector<float> row_losses;       // (M), overwritten
  Vector<double> loss;            // (1), overwritten: the sum of row_losses in row order
  Matrix<T> dhidden;              // (M, C), added into, or none()
  Matrix<float> dtable;           // (V, C), added into; none() exactly when dhidden is
  Vector<float> dbias;            // (V), added into; none() when bias or dhidden is
  bool tf32 = false;
};
void launch(CpuStream stream, const MaskedItemLoss<float>& args);
int64_t scratch_bytes(CpuStream stream, const MaskedItemLoss<float>& args);
void launch(CudaStream stream, const MaskedItemLoss<float>& args);
void launch(CudaStream stream, const MaskedItemLoss<Bf16>& args);
template <class T>
int64_t scratch_bytes(CudaStream, const MaskedItemLoss<T>& args) {
  const LossTile tile = loss_tile<T>(args.hidden.rows(), args.table.rows());
  const int64_t numbers = tile.rows * tile.stride;
  return cuda_scratch_bytes({numbers * int64_t{sizeof(float)}, tile.bytes - numbers * int64_t{sizeof(float)}});
}

}  // namespace itemloom
