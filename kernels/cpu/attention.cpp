// Attention on the CPU. A task owns the sequences that start within a range of 64 rows, for one head, so that short
// sequences share a task and a long one has its own. For each sequence K and V are copied to rows of whole vectors.
// Then blocks of 48 queries meet tiles of 64 keys. The scores are kept transposed, a key a row and a query a lane: the
// softmax needs no sum across lanes, and each of the seven products reads its operands as they lie, except Q^T and
// dO^T, which are transposed once a block. A block's running maximum and sum are corrected from tile to tile ("online
// softmax": Milakov and Gimelshein, 2018), so working memory does not grow with the square of the length.
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
#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(hn::ScalableTag<float>());
constexpr int64_t kQueries = 48;   // a multiple of every vector width
constexpr int64_t kKeys = 64;      // one word of dropout bits
constexpr int64_t kTaskRows = 64;  // a task owns the sequences that start within so many rows

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct Shape {
  int64_t hidden, heads, head_size;
  int64_t padded;   // head_size in whole vectors
  int64_t longest;  // the longest sequence
  float scale;
};

template <class Arguments>
Shape shape_of(const Arguments& args) {
  Shape shape;
  shape.hidden = args.qkv.columns() / 3;
  shape.heads = args.heads;
  shape.head_size = shape.hidden / args.heads;
  shape.padded = round_up(shape.head_size, kLanes);
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_size)));
  shape.longest = 0;
  for (int64_t s = 0; s + 1 < args.sequence_offsets.size(); ++s)
    shape.longest = std::max(shape.longest, args.sequence_offsets[s + 1] - args.sequence_offsets[s]);
  return shape;
}

// One thread's working memory. Rows of a head are `padded` wide and padded with zeros; transposed tiles and the scores
// have a lane a query, kQueries wide.
struct Workspace {
  Workspace(const Shape& shape, bool backward, float* base) : base_(base) {
    const int64_t rows = shape.longest * shape.padded, block = kQueries * shape.padded;
    keys = take(rows);
    values = take(rows);
    queries = take(block);
    queries_transposed = take(block);
    scores = take(kKeys * kQueries);
    output = take(block);
    maximum = take(kQueries);
    total = take(kQueries);
    rescale = take(kQueries);
    positions = reinterpret_cast<int32_t*>(take(kQueries));
    keep = reinterpret_cast<uint32_t*>(take(2 * kQueries));
    if (!backward) return;
    dkeys = take(rows);
    dvalues = take(rows);
    dqueries = take(block);
    doutput = take(block);
    doutput_transposed = take(block);
    dscores = take(kKeys * kQueries);
    log_sum_exp = take(kQueries);
    delta = take(kQueries);
  }

  int64_t floats() const { return used_; }

  float *keys, *values;              // (longest, padded)
  float *queries, *output;           // (kQueries, padded)
  float* queries_transposed;         // (padded, kQueries)
  float* scores;                     // (kKeys, kQueries)
  float *maximum, *total, *rescale;  // (kQueries)
  int32_t* positions;                // (kQueries), within the sequence
  uint32_t* keep;                    // (2, kQueries): bit j % 32 of [j / 32][i] says whether key j of the tile is kept
  float *dkeys, *dvalues;            // as keys
  float *dqueries, *doutput;         // as queries
  float* doutput_transposed;         // as queries_transposed
  float* dscores;                    // as scores
  float *log_sum_exp, *delta;        // (kQueries)

 private:
  float* take(int64_t count) {
    float* piece = base_ ? base_ + used_ : nullptr;
    used_ += round_up(count, kAlignment / static_cast<int64_t>(sizeof(float)));
    return piece;
  }

  float* base_;
  int64_t used_ = 0;
};

// `count` queries of a sequence from `first` on, in `lanes` lanes; the lanes after them compute what nobody reads.
struct Block {
  int64_t first, count, lanes;
  int64_t keys;  // how many keys any of them sees
};

// to[r] = factor * from[r] with zeros up to `padded`.
void copy_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, float factor, float* to,
               int64_t padded) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += padded) {
    for (int64_t c = 0; c < columns; ++c) to[c] = factor * from[c];
    for (int64_t c = columns; c < padded; ++c) to[c] = 0;
  }
}

// to[r] += factor * from[r]
void add_rows(const float* from, int64_t padded, int64_t rows, int64_t columns, float factor, float* to,
              int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, from += padded, to += stride) {
    for (int64_t c = 0; c < columns; ++c) to[c] += factor * from[c];
  }
}

// to (columns, kQueries) becomes the transpose of from (rows, columns); rows and columns are multiples of 4.
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to) {
  const hn::FixedTag<float, 4> d;
  for (int64_t c = 0; c < columns; c += 4) {
    for (int64_t r = 0; r < rows; r += 4) {
      const float* source = from + r * from_stride + c;
      const auto a = hn::LoadU(d, source), b = hn::LoadU(d, source + from_stride);
      const auto e = hn::LoadU(d, source + 2 * from_stride), f = hn::LoadU(d, source + 3 * from_stride);
      const auto ae_low = hn::InterleaveLower(d, a, e), bf_low = hn::InterleaveLower(d, b, f);
      const auto ae_high = hn::InterleaveUpper(d, a, e), bf_high = hn::InterleaveUpper(d, b, f);
      float* target = to + c * kQueries + r;
      hn::StoreU(hn::InterleaveLower(d, ae_low, bf_low), d, target);
      hn::StoreU(hn::InterleaveUpper(d, ae_low, bf_low), d, target + kQueries);
      hn::StoreU(hn::InterleaveLower(d, ae_high, bf_high), d, target + 2 * kQueries);
      hn::StoreU(hn::InterleaveUpper(d, ae_high, bf_high), d, target + 3 * kQueries);
    }
  }
}

// Copies a block's rows of a (kQueries, padded) operand, with zero rows up to `lanes`, and transposes them.
void load_block(const Shape& shape, const Block& block, const float* from, int64_t stride, float factor, float* to,
                float* transposed) {
  copy_rows(from, stride, block.count, shape.head_size, factor, to, shape.padded);
  std::fill(to + block.count * shape.padded, to + block.lanes * shape.padded, 0.0f);
  if (transposed) transpose(to, shape.padded, block.lanes, round_up(shape.head_size, 4), transposed);
}

// Scores of the keys [tile, tile + keys) for a block, without softmax: scores = K Q^T, minus infinity where a key comes
// after its query.
void score_tile(const Shape& shape, const Block& block, bool causal, int64_t tile, int64_t keys, Workspace& work) {
  tile_product<TileLayout::kRows>({.a = work.keys + tile * shape.padded,
                                   .a_stride = shape.padded,
                                   .b = work.queries_transposed,
                                   .b_stride = kQueries,
                                   .c = work.scores,
                                   .c_stride = kQueries,
                                   .depth = shape.head_size,
                                   .accumulate = false},
                                  keys, block.lanes);
  if (!causal) return;
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const auto hidden = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t key = std::max<int64_t>(0, work.positions[0] + 1 - tile); key < keys; ++key) {
    const auto place = hn::Set(di, static_cast<int32_t>(tile + key));
    for (int64_t lane = 0; lane < block.lanes; lane += kLanes) {
      float* score = work.scores + key * kQueries + lane;
      const auto later = hn::RebindMask(d, hn::Gt(place, hn::Load(di, work.positions + lane)));
      hn::Store(hn::IfThenElse(later, hidden, hn::Load(d, score)), d, score);
    }
  }
}

// The dropout bits of a block for the keys [tile, tile + 64).
void draw_tile(const DropoutMask& mask, Vector<const uint32_t> row_ids, const Block& block, int64_t begin, int64_t tile,
               Workspace& work) {
  for (int64_t i = 0; i < block.count; ++i) {
    const uint64_t bits = mask.keep_bits(row_ids[begin + block.first + i], tile / kKeys);
    work.keep[i] = static_cast<uint32_t>(bits);
    work.keep[kQueries + i] = static_cast<uint32_t>(bits >> 32);
  }
}

// Calls visit(key, kept) for every key of a tile in order; kept is the mask of the lanes from `lane` on.
template <bool kDropout, class Visit>
HWY_INLINE void for_each_key(const Workspace& work, int64_t lane, int64_t keys, Visit visit) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  for (int64_t half = 0; half < keys; half += 32) {
    const int64_t end = std::min(keys, half + 32);
    if constexpr (kDropout) {
      const auto word = hn::Load(du, work.keep + half / 32 * kQueries + lane);
      auto bit = hn::Set(du, 1u);
      for (int64_t key = half; key < end; ++key) {
        visit(key, hn::RebindMask(d, hn::TestBit(word, bit)));
        bit = hn::Add(bit, bit);
      }
    } else {
      for (int64_t key = half; key < end; ++key) visit(key, hn::FirstN(d, kLanes));
    }
  }
}

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

// output (=|+=) P V for the keys of a tile; also dqueries (=|+=) dS K.
void add_weighted_rows(const Shape& shape, const Block& block, const float* weights, const float* rows, int64_t keys,
                       float* output, bool accumulate) {
  tile_product<TileLayout::kColumns>({.a = weights,
                                      .a_stride = kQueries,
                                      .b = rows,
                                      .b_stride = shape.padded,
                                      .c = output,
                                      .c_stride = shape.padded,
                                      .depth = keys,
                                      .accumulate = accumulate},
                                     block.count, shape.padded);
}

Block begin_block(bool causal, int64_t first, int64_t length, Workspace& work) {
  Block block;
  block.first = first;
  block.count = std::min(kQueries, length - first);
  block.lanes = round_up(block.count, kLanes);
  block.keys = causal ? first + block.count : length;
  for (int64_t lane = 0; lane < kQueries; ++lane) work.positions[lane] = static_cast<int32_t>(first + lane);
  return block;
}

void forward_head(const AttentionForward& args, const Shape& shape, int64_t head, int64_t begin, int64_t length,
                  Workspace& work) {
  const int64_t column = head * shape.head_size, stride = 3 * shape.hidden;
  const float* qkv = args.qkv.row(begin) + column;
  copy_rows(qkv + shape.hidden, stride, length, shape.head_size, 1, work.keys, shape.padded);
  copy_rows(qkv + 2 * shape.hidden, stride, length, shape.head_size, 1, work.values, shape.padded);
  DropoutKey key = args.key;
  key.stream += static_cast<uint32_t>(head);
  const DropoutMask mask(key, args.dropout);
  for (int64_t first = 0; first < length; first += kQueries) {
    const Block block = begin_block(args.causal, first, length, work);
    load_block(shape, block, qkv + first * stride, stride, shape.scale, work.queries, work.queries_transposed);
    std::fill_n(work.maximum, kQueries, -std::numeric_limits<float>::infinity());
    std::fill_n(work.total, kQueries, 0.0f);
    for (int64_t tile = 0; tile < block.keys; tile += kKeys) {
      const int64_t keys = std::min(kKeys, block.keys - tile);
      score_tile(shape, block, args.causal, tile, keys, work);
      if (args.dropout > 0) {
        draw_tile(mask, args.row_ids, block, begin, tile, work);
        softmax_tile<true>(block, keys, work);
      } else {
        softmax_tile<false>(block, keys, work);
      }
      if (tile > 0) rescale_output(shape, block, work);
      add_weighted_rows(shape, block, work.scores, work.values + tile * shape.padded, keys, work.output, tile > 0);
    }
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t row = begin + first + i;
      const float factor = dropout_scale(args.dropout) / work.total[i];
      float* y = args.y.row(row) + column;
      for (int64_t c = 0; c < shape.head_size; ++c) y[c] = factor * work.output[i * shape.padded + c];
      args.log_sum_exp.row(head)[row] = work.maximum[i] + std::log(work.total[i]);
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

// delta_i = dy_i . y_i, which is sum_j P_ij dP_ij, for the block in doutput; y is copied to dqueries on the way.
void load_statistics(const AttentionBackward& args, const Shape& shape, const Block& block, int64_t head, int64_t row,
                     Workspace& work) {
  const hn::ScalableTag<float> d;
  copy_rows(args.y.row(row) + head * shape.head_size, shape.hidden, block.count, shape.head_size, 1, work.dqueries,
            shape.padded);
  std::fill_n(work.delta, kQueries, 0.0f);
  std::fill_n(work.log_sum_exp, kQueries, 0.0f);
  std::copy_n(args.log_sum_exp.row(head) + row, block.count, work.log_sum_exp);
  for (int64_t i = 0; i < block.count; ++i) {
    auto sum = hn::Zero(d);
    for (int64_t c = i * shape.padded; c < (i + 1) * shape.padded; c += kLanes)
      sum = hn::MulAdd(hn::Load(d, work.doutput + c), hn::Load(d, work.dqueries + c), sum);
    work.delta[i] = hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

// rows += weights right, one row a key: dV += (keep P)^T dO and dK += dS^T Q.
void add_block_to_keys(const Shape& shape, const Block& block, const float* weights, const float* right, int64_t keys,
                       float* rows) {
  tile_product<TileLayout::kRows>({.a = weights,
                                   .a_stride = kQueries,
                                   .b = right,
                                   .b_stride = shape.padded,
                                   .c = rows,
                                   .c_stride = shape.padded,
                                   .depth = block.count,
                                   .accumulate = true},
                                  keys, shape.padded);
}

void backward_tile(const AttentionBackward& args, const Shape& shape, const Block& block, int64_t tile, int64_t begin,
                   const DropoutMask& mask, Workspace& work) {
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
    draw_tile(mask, args.row_ids, block, begin, tile, work);
    softmax_backward_tile<true>(block, keys, work);
  } else {
    softmax_backward_tile<false>(block, keys, work);
  }
  add_block_to_keys(shape, block, work.scores, work.doutput, keys, work.dvalues + offset);
  add_block_to_keys(shape, block, work.dscores, work.queries, keys, work.dkeys + offset);
  add_weighted_rows(shape, block, work.dscores, work.keys + offset, keys, work.dqueries, tile > 0);
}

void backward_head(const AttentionBackward& args, const Shape& shape, int64_t head, int64_t begin, int64_t length,
                   Workspace& work) {
  const int64_t column = head * shape.head_size, stride = 3 * shape.hidden;
  const float* qkv = args.qkv.row(begin) + column;
  copy_rows(qkv + shape.hidden, stride, length, shape.head_size, 1, work.keys, shape.padded);
  copy_rows(qkv + 2 * shape.hidden, stride, length, shape.head_size, 1, work.values, shape.padded);
  std::fill_n(work.dkeys, length * shape.padded, 0.0f);
  std::fill_n(work.dvalues, length * shape.padded, 0.0f);
  DropoutKey key = args.key;
  key.stream += static_cast<uint32_t>(head);
  const DropoutMask mask(key, args.dropout);
  for (int64_t first = 0; first < length; first += kQueries) {
    const Block block = begin_block(args.causal, first, length, work);
    const int64_t row = begin + first;
    load_block(shape, block, qkv + first * stride, stride, shape.scale, work.queries, work.queries_transposed);
    load_block(shape, block, args.dy.row(row) + column, shape.hidden, 1, work.doutput, nullptr);
    load_statistics(args, shape, block, head, row, work);
    // The dropout scale belongs to dO wherever dO is used from here on.
    load_block(shape, block, args.dy.row(row) + column, shape.hidden, dropout_scale(args.dropout), work.doutput,
               work.doutput_transposed);
    for (int64_t tile = 0; tile < block.keys; tile += kKeys) backward_tile(args, shape, block, tile, begin, mask, work);
    add_rows(work.dqueries, shape.padded, block.count, shape.head_size, shape.scale, args.dqkv.row(row) + column,
             stride);
  }
  float* dqkv = args.dqkv.row(begin) + column;
  add_rows(work.dkeys, shape.padded, length, shape.head_size, 1, dqkv + shape.hidden, stride);
  add_rows(work.dvalues, shape.padded, length, shape.head_size, 1, dqkv + 2 * shape.hidden, stride);
}

// Calls run_head(head, begin, length, workspace) for every sequence that is not empty and every head.
template <class Arguments, class RunHead>
void for_each_head(CpuStream stream, const Arguments& args, const Shape& shape, bool backward, RunHead run_head) {
  const int64_t floats = Workspace(shape, backward, nullptr).floats();
  float* scratch = stream.scratch->take<float>(floats * thread_count());
  const int64_t* offsets = args.sequence_offsets.data();
  const int64_t sequences = args.sequence_offsets.size() - 1;
  const auto run_task = [&](int64_t task, int thread) {
    Workspace work(shape, backward, scratch + thread * floats);
    const int64_t first_row = task / shape.heads * kTaskRows;
    int64_t sequence = std::lower_bound(offsets, offsets + sequences, first_row) - offsets;
    for (; sequence < sequences && offsets[sequence] < first_row + kTaskRows; ++sequence) {
      const int64_t begin = offsets[sequence], length = offsets[sequence + 1] - begin;
      if (length > 0) run_head(task % shape.heads, begin, length, work);
    }
  };
  parallel_for_with_thread(block_count(args.qkv.rows(), kTaskRows) * shape.heads, run_task);
}

void attention_forward(CpuStream stream, const AttentionForward& args) {
  const Shape shape = shape_of(args);
  for_each_head(stream, args, shape, false, [&](int64_t head, int64_t begin, int64_t length, Workspace& work) {
    forward_head(args, shape, head, begin, length, work);
  });
}

void attention_backward(CpuStream stream, const AttentionBackward& args) {
  const Shape shape = shape_of(args);
  for_each_head(stream, args, shape, true, [&](int64_t head, int64_t begin, int64_t length, Workspace& work) {
    backward_head(args, shape, head, begin, length, work);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(attention_forward);
HWY_EXPORT(attention_backward);

void launch(CpuStream stream, const AttentionForward& args) {
  HWY_DYNAMIC_DISPATCH(attention_forward)(stream, args);
}

void launch(CpuStream stream, const AttentionBackward& args) {
  HWY_DYNAMIC_DISPATCH(attention_backward)(stream, args);
}

}  // namespace itemloom
#endif
