// What attention's forward and backward passes share: one thread's working memory, loading the rows of a sequence's
// head, and the products of a block of queries with a tile of keys. Included once per instruction set, as
// core/simd-inl.h is. kernels/cpu/attention.cpp tells the whole.
#if defined(ITEMLOOM_ATTENTION_TILES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_ATTENTION_TILES_INL_H
#undef ITEMLOOM_ATTENTION_TILES_INL_H
#else
#define ITEMLOOM_ATTENTION_TILES_INL_H
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/simd-inl.h"
#include "core/view.h"
#include "kernels/cpu/tile_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

constexpr int64_t kLanes = hn::MaxLanes(hn::ScalableTag<float>());
constexpr int64_t kQueries = 64;  // the most queries in a block, a multiple of every vector width
constexpr int64_t kKeys = 64;     // one word of dropout bits

struct Shape {
  int64_t hidden, heads, head_size;
  int64_t padded;   // head_size in whole vectors
  int64_t longest;  // the longest sequence
  float scale;
};

inline Shape make_shape(int64_t hidden, int64_t heads, int64_t longest) {
  Shape shape;
  shape.hidden = hidden;
  shape.heads = heads;
  shape.head_size = hidden / heads;
  shape.padded = round_up(shape.head_size, kLanes);
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_size)));
  shape.longest = longest;
  return shape;
}

template <class Arguments>
Shape shape_of(const Arguments& args) {
  int64_t longest = 0;
  for (int64_t s = 0; s + 1 < args.sequence_offsets.size(); ++s)
    longest = std::max(longest, args.sequence_offsets[s + 1] - args.sequence_offsets[s]);
  return make_shape(args.qkv.columns() / 3, args.heads, longest);
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

// One head of one sequence: its rows of qkv, and the range of y's rows that belong to it.
struct Sequence {
  int64_t head, column;  // column = head * head_size
  int64_t begin, length;
  int64_t first_query, queries;
};

// `count` queries in `lanes` lanes, whose rows of y start at `first`; the lanes after them compute what nobody reads.
// Where each stands in its sequence is in Workspace::positions.
struct Block {
  int64_t first, count, lanes;
  int64_t keys;  // how many keys any of them sees
};

// to = factor * from, with zeros up to `padded`.
inline void copy_row(const float* from, int64_t columns, float factor, float* to, int64_t padded) {
  for (int64_t c = 0; c < columns; ++c) to[c] = factor * from[c];
  for (int64_t c = columns; c < padded; ++c) to[c] = 0;
}
inline void add_row(const float* from, int64_t columns, float factor, float* to) {
  for (int64_t c = 0; c < columns; ++c) to[c] += factor * from[c];
}
HWY_INLINE float dot(const float* a, const float* b, int64_t columns) {
  const hn::ScalableTag<float> d;
  auto sum = hn::Zero(d);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) sum = hn::MulAdd(hn::LoadU(d, a + c), hn::LoadU(d, b + c), sum);
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; c < columns; ++c) total += a[c] * b[c];
  return total;
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

// The head of a sequence that a task works on next; no queries where there is nothing to do.
template <class Arguments>
Sequence sequence_of(const Arguments& args, const Shape& shape, int64_t index, int64_t head) {
  Sequence sequence;
  sequence.head = head;
  sequence.column = head * shape.head_size;
  sequence.begin = args.sequence_offsets[index];
  const int64_t end = args.sequence_offsets[index + 1];
  sequence.length = end - sequence.begin;
  sequence.first_query = sequence.begin;
  sequence.queries = sequence.length;
  if (args.query_rows) {
    const int64_t* rows = args.query_rows.begin();
    const int64_t* first = std::lower_bound(rows, args.query_rows.end(), sequence.begin);
    sequence.first_query = first - rows;
    sequence.queries = std::lower_bound(first, args.query_rows.end(), end) - first;
  }
  return sequence;
}

// The number of blocks of `count` queries, and block `index` of them: equal ones but for one vector of lanes.
int64_t query_blocks(int64_t count) {
  return block_count(block_count(count, kLanes), kQueries / kLanes);
}
Block query_block(const Sequence& sequence, int64_t index) {
  const int64_t blocks = query_blocks(sequence.queries), vectors = block_count(sequence.queries, kLanes);
  const int64_t begin = vectors * index / blocks * kLanes, end = vectors * (index + 1) / blocks * kLanes;
  return {.first = sequence.first_query + begin,
          .count = std::min(end, sequence.queries) - begin,
          .lanes = end - begin,
          .keys = sequence.length};
}

// Starts a block: positions, and the queries times `scale` with their transpose.
template <class Arguments>
Block load_queries(const Arguments& args, const Shape& shape, const Sequence& sequence, int64_t index,
                   Workspace& work) {
  Block block = query_block(sequence, index);
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t row = args.query_rows ? args.query_rows[block.first + i] : block.first + i;
    work.positions[i] = static_cast<int32_t>(row - sequence.begin);
    copy_row(args.qkv.row(row) + sequence.column, shape.head_size, shape.scale, work.queries + i * shape.padded,
             shape.padded);
  }
  const int32_t last = work.positions[block.count - 1];
  std::fill(work.positions + block.count, work.positions + block.lanes, last);
  if (args.causal) block.keys = last + 1;
  std::fill(work.queries + block.count * shape.padded, work.queries + block.lanes * shape.padded, 0.0f);
  transpose(work.queries, shape.padded, block.lanes, round_up(shape.head_size, 4), work.queries_transposed);
  return block;
}

template <class Arguments>
void load_keys(const Arguments& args, const Shape& shape, const Sequence& sequence, Workspace& work) {
  for (int64_t part = 1; part <= 2; ++part) {
    float* to = part == 1 ? work.keys : work.values;
    const float* from = args.qkv.row(sequence.begin) + sequence.column + part * shape.hidden;
    for (int64_t i = 0; i < sequence.length; ++i, from += 3 * shape.hidden, to += shape.padded)
      copy_row(from, shape.head_size, 1, to, shape.padded);
  }
}

template <class Arguments>
DropoutMask dropout_mask(const Arguments& args, int64_t head) {
  DropoutKey key = args.key;
  key.stream += static_cast<uint32_t>(head);
  return DropoutMask(key, args.dropout);
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

// The dropout bits of a block for the keys [tile, tile + 64) of the sequence whose row ids are given.
void draw_tile(const DropoutMask& mask, const uint32_t* row_ids, const Block& block, int64_t tile, Workspace& work) {
  for (int64_t i = 0; i < block.count; ++i) {
    const uint64_t bits = mask.keep_bits(row_ids[work.positions[i]], tile / kKeys);
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

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif
