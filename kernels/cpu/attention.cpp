// Attention on the CPU. A task owns the sequences that start within a range of 64 rows, for one head, so that short
// sequences share a task and a long one has its own. For each sequence K and V are copied to rows of whole vectors.
// Then blocks of up to 64 queries meet tiles of 64 keys. The scores are kept transposed, a key a row and a query a
// lane: the softmax needs no sum across lanes, and each of the seven products reads its operands as they lie, except
// Q^T and dO^T, which are transposed once a block. A block's running maximum and sum are corrected from tile to tile
// ("online softmax": Milakov and Gimelshein, 2018), so working memory does not grow with the square of the length.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"
#include "kernels/cpu/attention_tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

constexpr int64_t kTaskRows = 64;  // a task owns the sequences that start within so many rows

// Turns a tile's scores into keep * exp(score - maximum), with the running maximum and sum brought up to date; what was
// summed before this tile is to be multiplied by `rescale`.
template <bool kDropout>
void softmax_tile(const Block& block, int64_t keys, Workspace& work) {
  const hn::ScalableTag<float> d;
  for (int64_t lane = 0; lane < block.lanes; lane += kLanes) {
    float* scores = work.scores + lane;
    const auto before = hn::Load(d, work.maximum + lane);
    auto maximum = before;
    for (int64_t key = 0; key < keys; ++key) maximum = hn::Max(maximum, hn::Load(d, scores + key * kQueries));
    auto sum = hn::Zero(d);
    for_each_key<kDropout>(work, lane, keys, [&](int64_t key, auto kept) HWY_ATTR {
      const auto p = exp_nonpositive(d, hn::Sub(hn::Load(d, scores + key * kQueries), maximum));
      sum = hn::Add(sum, p);
      hn::Store(kDropout ? hn::IfThenElseZero(kept, p) : p, d, scores + key * kQueries);
    });
    const auto rescale = exp_nonpositive(d, hn::Sub(before, maximum));
    hn::Store(rescale, d, work.rescale + lane);
    hn::Store(maximum, d, work.maximum + lane);
    hn::Store(hn::MulAdd(hn::Load(d, work.total + lane), rescale, sum), d, work.total + lane);
  }
}

void rescale_output(const Shape& shape, const Block& block, Workspace& work) {
  const hn::ScalableTag<float> d;
  for (int64_t i = 0; i < block.count; ++i) {
    const auto factor = hn::Set(d, work.rescale[i]);
    for (int64_t c = 0; c < shape.padded; c += kLanes) {
      float* output = work.output + i * shape.padded + c;
      hn::Store(hn::Mul(hn::Load(d, output), factor), d, output);
    }
  }
}

void forward_head(const AttentionForward<float>& args, const Shape& shape, const Sequence& sequence, Workspace& work) {
  load_keys(args, shape, sequence, work);
  const DropoutMask mask = dropout_mask(args, sequence.head);
  for (int64_t index = 0; index < query_blocks(sequence.queries); ++index) {
    const Block block = load_queries(args, shape, sequence, index, work);
    std::fill_n(work.maximum, block.lanes, -std::numeric_limits<float>::infinity());
    std::fill_n(work.total, block.lanes, 0.0f);
    for (int64_t tile = 0; tile < block.keys; tile += kKeys) {
      const int64_t keys = std::min(kKeys, block.keys - tile);
      score_tile(shape, block, args.causal, tile, keys, work);
      if (args.dropout > 0) {
        draw_tile(mask, args.row_ids.data() + sequence.begin, block, tile, work);
        softmax_tile<true>(block, keys, work);
      } else {
        softmax_tile<false>(block, keys, work);
      }
      if (tile > 0) rescale_output(shape, block, work);
      add_weighted_rows(shape, block, work.scores, work.values + tile * shape.padded, keys, work.output, tile > 0);
    }
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t row = block.first + i;
      copy_row(work.output + i * shape.padded, shape.head_size, dropout_scale(args.dropout) / work.total[i],
               args.y.row(row) + sequence.column, shape.head_size);
      args.log_sum_exp.row(sequence.head)[row] = work.maximum[i] + std::log(work.total[i]);
    }
  }
}

// From scores and dscores, which hold S and dropout_scale * dO V^T, to keep * P and dS = P (dP - delta).
template <bool kDropout>
void softmax_backward_tile(const Block& block, int64_t keys, Workspace& work) {
  const hn::ScalableTag<float> d;
  for (int64_t lane = 0; lane < block.lanes; lane += kLanes) {
    const auto log_sum_exp = hn::Load(d, work.log_sum_exp + lane), delta = hn::Load(d, work.delta + lane);
    for_each_key<kDropout>(work, lane, keys, [&](int64_t key, auto kept) HWY_ATTR {
      float* score = work.scores + key * kQueries + lane;
      float* dscore = work.dscores + key * kQueries + lane;
      const auto p = exp_nonpositive(d, hn::Sub(hn::Load(d, score), log_sum_exp));
      const auto dp = hn::Load(d, dscore);
      hn::Store(kDropout ? hn::IfThenElseZero(kept, p) : p, d, score);
      hn::Store(hn::Mul(p, hn::Sub(kDropout ? hn::IfThenElseZero(kept, dp) : dp, delta)), d, dscore);
    });
  }
}

// Loads what backward needs of a block beside its queries: log_sum_exp, delta_i = dy_i . y_i (which is
// sum_j P_ij dP_ij), and dO times the dropout scale, which belongs to dO wherever dO is used after that.
void load_gradients(const AttentionBackward<float>& args, const Shape& shape, const Sequence& sequence,
                    const Block& block, Workspace& work) {
  std::fill_n(work.delta, block.lanes, 0.0f);
  std::fill_n(work.log_sum_exp, block.lanes, 0.0f);
  std::copy_n(args.log_sum_exp.row(sequence.head) + block.first, block.count, work.log_sum_exp);
  for (int64_t i = 0; i < block.count; ++i) {
    const float* dy = args.dy.row(block.first + i) + sequence.column;
    work.delta[i] = dot(dy, args.y.row(block.first + i) + sequence.column, shape.head_size);
    copy_row(dy, shape.head_size, dropout_scale(args.dropout), work.doutput + i * shape.padded, shape.padded);
  }
  std::fill(work.doutput + block.count * shape.padded, work.doutput + block.lanes * shape.padded, 0.0f);
  transpose(work.doutput, shape.padded, block.lanes, round_up(shape.head_size, 4), work.doutput_transposed);
}

void backward_tile(const AttentionBackward<float>& args, const Shape& shape, const Sequence& sequence,
                   const Block& block, int64_t tile, const DropoutMask& mask, Workspace& work) {
  const int64_t keys = std::min(kKeys, block.keys - tile), offset = tile * shape.padded;
  score_tile(shape, block, args.causal, tile, keys, work);
  tile_product<TileLayout::kRows>({.a = work.values + offset,
                                   .a_stride = shape.padded,
                                   .b = work.doutput_transposed,
                                   .b_stride = kQueries,
                                   .c = work.dscores,
                                   .c_stride = kQueries,
                                   .depth = shape.head_size,
                                   .accumulate = false},
                                  keys, block.lanes);
  if (args.dropout > 0) {
    draw_tile(mask, args.row_ids.data() + sequence.begin, block, tile, work);
    softmax_backward_tile<true>(block, keys, work);
  } else {
    softmax_backward_tile<false>(block, keys, work);
  }
  add_block_to_keys(shape, block, work.scores, work.doutput, keys, work.dvalues + offset);
  add_block_to_keys(shape, block, work.dscores, work.queries, keys, work.dkeys + offset);
  add_weighted_rows(shape, block, work.dscores, work.keys + offset, keys, work.dqueries, tile > 0);
}

void backward_head(const AttentionBackward<float>& args, const Shape& shape, const Sequence& sequence,
                   Workspace& work) {
  load_keys(args, shape, sequence, work);
  std::fill_n(work.dkeys, sequence.length * shape.padded, 0.0f);
  std::fill_n(work.dvalues, sequence.length * shape.padded, 0.0f);
  const DropoutMask mask = dropout_mask(args, sequence.head);
  const auto dqkv = [&](int64_t position) { return args.dqkv.row(sequence.begin + position) + sequence.column; };
  for (int64_t index = 0; index < query_blocks(sequence.queries); ++index) {
    const Block block = load_queries(args, shape, sequence, index, work);
    load_gradients(args, shape, sequence, block, work);
    for (int64_t tile = 0; tile < block.keys; tile += kKeys)
      backward_tile(args, shape, sequence, block, tile, mask, work);
    for (int64_t i = 0; i < block.count; ++i)
      add_row(work.dqueries + i * shape.padded, shape.head_size, shape.scale, dqkv(work.positions[i]));
  }
  for (int64_t i = 0; i < sequence.length; ++i) {
    add_row(work.dkeys + i * shape.padded, shape.head_size, 1, dqkv(i) + shape.hidden);
    add_row(work.dvalues + i * shape.padded, shape.head_size, 1, dqkv(i) + 2 * shape.hidden);
  }
}

// Calls run_head(sequence, workspace) for every head of every sequence that has queries.
template <class Arguments, class RunHead>
void for_each_head(CpuStream stream, const Arguments& args, const Shape& shape, bool backward, RunHead run_head) {
  if (args.y.rows() == 0) return;
  const int64_t floats = Workspace(shape, backward, nullptr).floats();
  float* scratch = stream.scratch->take<float>(floats * thread_count());
  const int64_t* offsets = args.sequence_offsets.data();
  const int64_t sequences = args.sequence_offsets.size() - 1;
  const auto run_task = [&](int64_t task, int thread) {
    Workspace work(shape, backward, scratch + thread * floats);
    const int64_t first_row = task / shape.heads * kTaskRows;
    int64_t index = std::lower_bound(offsets, offsets + sequences, first_row) - offsets;
    for (; index < sequences && offsets[index] < first_row + kTaskRows; ++index) {
      const Sequence sequence = sequence_of(args, shape, index, task % shape.heads);
      if (sequence.queries > 0) run_head(sequence, work);
    }
  };
  parallel_for_with_thread(block_count(args.qkv.rows(), kTaskRows) * shape.heads, run_task);
}

void attention_forward(CpuStream stream, const AttentionForward<float>& args) {
  const Shape shape = shape_of(args);
  for_each_head(stream, args, shape, false,
                [&](const Sequence& sequence, Workspace& work) { forward_head(args, shape, sequence, work); });
}

void attention_backward(CpuStream stream, const AttentionBackward<float>& args) {
  const Shape shape = shape_of(args);
  for_each_head(stream, args, shape, true,
                [&](const Sequence& sequence, Workspace& work) { backward_head(args, shape, sequence, work); });
}

int64_t workspace_floats(int64_t hidden, int64_t heads, int64_t longest) {
  return Workspace(make_shape(hidden, heads, longest), true, nullptr).floats();
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(attention_forward);
HWY_EXPORT(attention_backward);
HWY_EXPORT(workspace_floats);

int64_t attention_scratch_bytes(CpuStream, int64_t hidden, int64_t heads, int64_t longest) {
  const int64_t floats = HWY_DYNAMIC_DISPATCH(workspace_floats)(hidden, heads, longest);
  return floats * thread_count() * static_cast<int64_t>(sizeof(float));
}

void launch(CpuStream stream, const AttentionForward<float>& args) {
  HWY_DYNAMIC_DISPATCH(attention_forward)(stream, args);
}

void launch(CpuStream stream, const AttentionBackward<float>& args) {
  HWY_DYNAMIC_DISPATCH(attention_backward)(stream, args);
}

}  // namespace itemloom
#endif
