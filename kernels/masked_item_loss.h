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
// none() only the loss is computed. Work goes tile by tile, so the workspace grows with V and C but not with M beyond a
// fixed number of rows. Every sum has a fixed order: the same bits for any number of threads.
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

// A tile of logits on CUDA, and of their gradients, which are the same memory where T is float.
struct LossTile {
  int64_t rows, items, stride;  // rows of logits, and of dz, begin with a sector of memory
  int64_t logits;               // that there is memory for
};
inline constexpr int64_t kMostLossTileBytes = int64_t{1} << 30;

// How a loss is cut into tiles of at most `most_bytes`. There are two ways.
//
//   Whole rows: one pass; a tile holds all logits of its rows, turns them into dz and adds the gradients. Where V is
//   large a tile has few rows, and each reads the whole table twice and reads and writes its whole gradient.
//   Cut rows: two passes over tiles of items (as flash attention goes over keys: Dao et al. 2022, section 3.1). The
//   first one makes the rows' greatest logits and sums, the second one computes the logits again and goes on as above.
//
// Rows are cut where that takes less time by the bytes that move, for a logit, and by the FLOPs: a product takes as
// long as the greater of the two. While it moves a byte a GPU computes 10 to 20 FLOPs in fp32, 76 to 148 in tf32 and
// 153 to 295 in bf16, by the data sheets of A100, H100 and B200. The least of them is counted with: there computing
// again costs most.
template <class T>
constexpr LossTile loss_tile(int64_t rows, int64_t items, int64_t columns, bool tf32, int64_t most_bytes) {
  constexpr bool kFloat = std::is_same_v<T, float>;
  constexpr int64_t kMostWholeRows = 1024, kMostCutRows = 8192, kFewestCutItems = 1024;
  constexpr int64_t kElement = sizeof(T), kLogit = kFloat ? 4 : 4 + kElement, kStep = 32 / kElement;
  const int64_t stride = round_up(items, kStep), most_logits = most_bytes / kLogit;
  const int64_t whole_rows = std::min({rows, most_logits / stride, kMostWholeRows});
  const LossTile whole{whole_rows, items, stride, whole_rows * stride};
  const int64_t cut_rows = std::min({rows, std::max<int64_t>(most_logits / kFewestCutItems, 1), kMostCutRows});
  if (whole_rows == rows) return whole;
  const int64_t cut_items = std::max(most_logits / cut_rows, kFewestCutItems) / kStep * kStep;
  const LossTile cut{cut_rows, cut_items, cut_items, std::max(most_logits, cut_rows * cut_items)};
  if (cut_items >= items && whole_rows > 0) return whole;
  if (whole_rows == 0) return cut;

  const auto c = static_cast<double>(columns), e = static_cast<double>(kElement);
  const double computing = 2 * c / (!kFloat ? 150 : tf32 ? 75 : 10);
  const auto product = [=](double bytes) { return std::max(bytes, computing); };
  // Not of the rounded number of items, which would send some rows back to the other way, and to less scratch memory.
  const double item = static_cast<double>(cut_rows) / static_cast<double>(most_logits);
  const double row = 1 / static_cast<double>(whole_rows), cut_row = 1 / static_cast<double>(cut_rows);
  // Logits; their two readings and dz; dhidden; dtable.
  const double whole_time = product(4 + c * e * row) + 8 + e + product(e + c * e * row) + product(e + c * 8 * row);
  const double cut_time = 2 * product(4 + c * e * (cut_row + item)) + 8 + e +
                          product(e + c * (e * cut_row + 8 * item)) + product(e + c * (8 * cut_row + e * item));
  return cut_time < whole_time ? cut : whole;
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
  int64_t most_tile_bytes = kMostLossTileBytes;  // CUDA only
};
void launch(CpuStream stream, const MaskedItemLoss<float>& args);
int64_t scratch_bytes(CpuStream stream, const MaskedItemLoss<float>& args);
void launch(CudaStream stream, const MaskedItemLoss<float>& args);
void launch(CudaStream stream, const MaskedItemLoss<Bf16>& args);
template <class T>
int64_t scratch_bytes(CudaStream, const MaskedItemLoss<T>& args) {
  const int64_t items = args.table.rows(), columns = args.table.columns();
  const LossTile tile = loss_tile<T>(args.hidden.rows(), items, columns, args.tf32, args.most_tile_bytes);
  const int64_t numbers = tile.rows * int64_t{sizeof(float)};
  const bool bf16 = !std::is_same_v<T, float>;
  return cuda_scratch_bytes({tile.logits * int64_t{sizeof(float)}, bf16 ? tile.logits * int64_t{sizeof(T)} : 0, numbers,
                             numbers, numbers, bf16 && tile.items < items ? numbers * columns : 0});
}

}  // namespace itemloom
