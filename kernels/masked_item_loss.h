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
};
inline constexpr int64_t kMostLossTileBytes = int64_t{1} << 30;

// How a loss is cut into tiles of at most `most_bytes`. There are two ways.
//
//   Whole rows: one pass; a tile of R rows holds all their logits, turns them into dz and adds the gradients. Each tile
//   reads the table twice and reads and writes its gradient: C (2 e + 8) / R bytes a logit (e: bytes of a T).
//   Cut rows: two passes over tiles of I items (flash attention's way: Dao et al. 2022, section 3.1). The first one
//   makes the rows' greatest logits and sums, the second one computes the logits again and goes on as above. That
//   writes a logit once more and costs 2 C FLOPs, but the table comes by once a pass: 4 bytes, 2 C / balance, and
//   C (3 e + 8) (1 / R + 1 / I) for table, hidden rows and their gradients.
//
// Rows are whole while that is cheaper, which for fp32 of 64 columns holds up to about four million items. `balance` is
// the FLOPs that a GPU computes while it moves a byte: data sheets of A100, H100 and B200 say 10 to 20 in fp32, 76 to
// 148 in tf32, 153 to 295 in bf16.
template <class T>
constexpr LossTile loss_tile(int64_t rows, int64_t items, int64_t columns, bool tf32, int64_t most_bytes) {
  constexpr bool kFloat = std::is_same_v<T, float>;
  constexpr int64_t kFewestItems = 1024;
  const int64_t logit = int64_t{sizeof(float)} + (kFloat ? 0 : int64_t{sizeof(T)}), step = 32 / int64_t{sizeof(T)};
  const int64_t stride = round_up(items, step);
  const LossTile whole{std::min(rows, std::clamp<int64_t>(most_bytes / (stride * logit), 16, 1024)), items, stride};
  const int64_t cut_rows = std::min(rows, std::max<int64_t>(most_bytes / (kFewestItems * logit), 16));
  const int64_t cut_items = std::max(most_bytes / (std::max<int64_t>(cut_rows, 1) * logit), kFewestItems) / step * step;
  if (whole.rows == rows || cut_items >= items) return whole;
  const double bytes = sizeof(T), balance = !kFloat ? 150 : tf32 ? 75 : 10;
  const auto c = static_cast<double>(columns);
  const double whole_bytes = c * (2 * bytes + 8) / static_cast<double>(whole.rows);
  const double cut_bytes =
      4 + 2 * c / balance +
      c * (3 * bytes + 8) * (1 / static_cast<double>(cut_rows) + 1 / static_cast<double>(cut_items));
  return cut_bytes < whole_bytes ? LossTile{cut_rows, cut_items, cut_items} : whole;
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
  const int64_t logits = tile.rows * tile.stride, numbers = tile.rows * int64_t{sizeof(float)};
  const bool bf16 = !std::is_same_v<T, float>;
  return cuda_scratch_bytes({logits * int64_t{sizeof(float)}, bf16 ? logits * int64_t{sizeof(T)} : 0, numbers, numbers,
                             numbers, bf16 && tile.items < items ? numbers * columns : 0});
}

}  // namespace itemloom
