// Multi-head attention over packed sequences of any length (FlashAttention-2, Dao 2023, adapted to the CPU: nothing of
// size L x L is kept).
//
// qkv is what the projection wrote: row r holds q, k and v one after the other, each C wide, each H heads of D = C / H.
// For a sequence with rows [s, e) and head h, with scale = 1 / sqrt(D):
//
//   S[i][j] = scale * q_i . k_j           (causal: only j <= i)
//   P[i][j] = softmax_j(S[i][j]),  lse_i = log sum_j exp(S[i][j])
//   y_i     = sum_j keep(i, j) * dropout_scale * P[i][j] * v_j
//
// keep is core/rng.h's rule with row_id = row_ids[i], column = j - s, and stream = key.stream + h. dropout 0 keeps all
// and draws nothing.
//
// query_rows names the rows i whose outputs are wanted (the masked rows in a last layer, the last row of each sequence
// in evaluation); y, lse and dy then have a row for each of them, in that order, and M below is their number. Every row
// remains a key. With none() all N rows are wanted and M is N. The wanted rows of y have the same bits either way.
//
// Backward recomputes P from lse and adds into dqkv. One task owns a (sequence, head): one writer per output, fixed
// order, the same bits for any number of threads and whatever else is in the batch.
//
// With T = Bf16 everything stored but log_sum_exp is bf16, and sums, softmax and the scale are fp32. Rounded on the way
// are the factors of second products, keep * exp(S - max) and dS; gradients are rounded once before they are added to
// what dqkv holds and once after; delta_i = dy_i . y_i takes y as it was stored.
//
// On CUDA heads have at most 128 columns, all N rows are at most 2^30, and the last bits depend on where in the batch a
// sequence lies, as does whether a NaN or an infinity in one sequence shows in its neighbours.
#pragma once

#include "core/bf16.h"
#include "core/device.h"
#include "core/rng.h"
#include "core/view.h"
#include "kernels/scratch.h"

namespace itemloom {

// Of a CUDA device; the CPU takes heads of any size.
inline constexpr int64_t kLargestCudaHead = 128;

template <class T>
struct AttentionForward {
  Matrix<const T> qkv;                     // (N, 3C)
  Vector<const int64_t> sequence_offsets;  // (B + 1), from 0 to N; empty sequences are fine
  Vector<const int64_t> query_rows;        // (M) strictly ascending, or none(): all N rows
  Vector<const uint32_t> row_ids;          // (N) global row ids, or none() without dropout
  int64_t heads;                           // H, divides C
  bool causal;
  float dropout;
  DropoutKey key;
  Matrix<T> y;                // (M, C), overwritten
  Matrix<float> log_sum_exp;  // (H, M), overwritten, kept for backward
};
void launch(CpuStream stream, const AttentionForward<float>& args);
void launch(CudaStream stream, const AttentionForward<float>& args);
void launch(CudaStream stream, const AttentionForward<Bf16>& args);

template <class T>
struct AttentionBackward {
  Matrix<const T> qkv;
  Vector<const int64_t> sequence_offsets;
  Vector<const int64_t> query_rows;
  Vector<const uint32_t> row_ids;
  int64_t heads;
  bool causal;
  float dropout;
  DropoutKey key;
  Matrix<const T> y;                // (M, C) from the forward pass
  Matrix<const float> log_sum_exp;  // (H, M) from the forward pass
  Matrix<const T> dy;               // (M, C)
  Matrix<T> dqkv;                   // (N, 3C), added into
};
void launch(CpuStream stream, const AttentionBackward<float>& args);
void launch(CudaStream stream, const AttentionBackward<float>& args);
void launch(CudaStream stream, const AttentionBackward<Bf16>& args);
template <class T>
int64_t scratch_bytes(CudaStream, const AttentionBackward<T>& args) {
  const int64_t queries = args.y.rows();
  return cuda_scratch_bytes({args.heads * queries * int64_t{sizeof(float)}, queries * int64_t{sizeof(int32_t)}});
}
// On the CPU it depends on the longest sequence, which no extent of an argument tells; of either direction, for C
// columns and H heads.
int64_t attention_scratch_bytes(CpuStream stream, int64_t hidden, int64_t heads, int64_t longest);

}  // namespace itemloom
