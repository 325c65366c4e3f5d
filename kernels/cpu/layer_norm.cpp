#include "kernels/layer_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/dropout-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// Horizontal sums, divisions and roots are done for four rows at a time.
constexpr int64_t kGroup = 4;
using FourFloats = hn::CappedTag<float, kGroup>;

// A task goes through its rows in chunks that stay in the first-level cache, and through a chunk once for each pass:
// the rows of a pass are independent, which hides the latency of sums and roots, and memory is met in order.
constexpr int64_t kMaxChunk = 64;
int64_t chunk_rows(int64_t columns) {
  return std::clamp<int64_t>(1024 / std::max<int64_t>(columns, 1) / kGroup * kGroup, kGroup, kMaxChunk);
}

template <class D>
HWY_INLINE hn::Vec<FourFloats> fold_halves(D, hn::Vec<D> sums) {
  if constexpr (hn::MaxLanes(D()) == kGroup) {
    return sums;
  } else {
    const hn::Half<D> half;
    return fold_halves(half, hn::Add(hn::LowerHalf(half, sums), hn::UpperHalf(half, sums)));
  }
}

// The sums over the lanes of four vectors. The order of additions is the same for each of them.
HWY_INLINE hn::Vec<FourFloats> sums_of_lanes(const FloatVector (&of)[kGroup]) {
  const Floats d;
  const hn::RepartitionToWide<Floats> d_pairs;
  const auto add_pairs = [=](FloatVector a, FloatVector b) HWY_ATTR {
    return hn::BitCast(d_pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  };
  const auto low = add_pairs(of[0], of[1]), high = add_pairs(of[2], of[3]);
  return fold_halves(d, hn::Add(hn::BitCast(d, hn::InterleaveLower(d_pairs, low, high)),
                                hn::BitCast(d, hn::InterleaveUpper(d_pairs, low, high))));
}

// result[row - begin] = finish(sum over the columns of term(row, c, lanes, sum so far)) for the rows of [begin, end).
template <class Term, class Finish>
HWY_INLINE void reduce_rows(int64_t begin, int64_t end, int64_t columns, float* result, const Term& term,
                            const Finish& finish) {
  const Floats d;
  for (int64_t first = begin; first < end; first += kGroup) {
    FloatVector sums[kGroup];
#pragma GCC unroll 4
    for (int64_t i = 0; i < kGroup; ++i) {
      const int64_t row = std::min(first + i, end - 1);  // an incomplete group does its last row again
      FloatVector sum = hn::Zero(d);
      for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR { sum = term(row, c, lanes, sum); });
      sums[i] = sum;
    }
    const auto rows = hn::FirstN(FourFloats(), static_cast<size_t>(std::min(kGroup, end - first)));
    hn::BlendedStore(finish(sums_of_lanes(sums)), rows, FourFloats(), result + first - begin);
  }
}

template <class Body>
HWY_INLINE void for_chunks(int64_t begin, int64_t end, int64_t size, const Body& body) {
  for (int64_t chunk = begin; chunk < end; chunk += size) body(chunk, std::min(chunk + size, end));
}

// sum = residual + what dropout leaves of x, for the rows of [begin, end).
void add_chunk(const LayerNormForward<float>& args, const RowDropout& dropout, int64_t begin, int64_t end) {
  const int64_t columns = args.x.columns();
  const float *x = args.x.data(), *residual = args.residual.data();
  float* sum = args.sum.data();
  dropout.for_pieces(begin, end, columns, [=](int64_t row, int64_t column, int64_t count, auto dropped) HWY_ATTR {
    const int64_t start = row * columns + column;
    for_lanes(start, start + count, [&](int64_t i, auto lanes) HWY_ATTR {
      const FloatVector kept = dropped(lanes.load(x + i));
      lanes.store(residual ? hn::Add(lanes.load(residual + i), kept) : kept, sum + i);
    });
  });
}

// Of the rows of [begin, end) of x, which is args.x or args.sum.
void normalise_chunk(const LayerNormForward<float>& args, const float* x, int64_t begin, int64_t end) {
  const Floats d;
  const FourFloats d4;
  const int64_t columns = args.x.columns();
  const float *gamma = args.gamma.data(), *beta = args.beta.data();
  float *y = args.y.data(), *mean = args.mean.data(), *inverse_std = args.inverse_std.data();
  const auto count = hn::Set(d4, static_cast<float>(columns)), epsilon = hn::Set(d4, args.epsilon);
  reduce_rows(
      begin, end, columns, mean + begin,
      [=](int64_t row, int64_t c, auto lanes, FloatVector sum)
          HWY_ATTR { return hn::Add(sum, lanes.load(x + row * columns + c)); },
      [=](auto sum) HWY_ATTR { return hn::Div(sum, count); });
  reduce_rows(
      begin, end, columns, inverse_std + begin,
      [=](int64_t row, int64_t c, auto lanes, FloatVector sum) HWY_ATTR {
        const FloatVector centred =
            lanes.zero_others(hn::Sub(lanes.load(x + row * columns + c), hn::Set(d, mean[row])));
        return hn::MulAdd(centred, centred, sum);
      },
      [=](auto sum) HWY_ATTR { return hn::Div(hn::Set(d4, 1.0f), hn::Sqrt(hn::Add(hn::Div(sum, count), epsilon))); });
  for (int64_t row = begin; row < end; ++row) {
    const FloatVector centre = hn::Set(d, mean[row]), factor = hn::Set(d, inverse_std[row]);
    for_lanes(0, columns, [=](int64_t c, auto lanes) HWY_ATTR {
      const FloatVector normal = hn::Mul(hn::Sub(lanes.load(x + row * columns + c), centre), factor);
      lanes.store(hn::MulAdd(normal, lanes.load(gamma + c), lanes.load(beta + c)), y + row * columns + c);
    });
  }
}

void layer_norm_forward(CpuStream, const LayerNormForward<float>& args) {
  const int64_t columns = args.x.columns();
  const RowDropout dropout(args.row_ids, args.probability, args.key);
  parallel_blocks(args.x.rows(), rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for_chunks(begin, end, chunk_rows(columns), [&](int64_t first, int64_t last) {
      if (args.sum) add_chunk(args, dropout, first, last);
      normalise_chunk(args, args.sum ? args.sum.data() : args.x.data(), first, last);
    });
  });
}

// The header's formulas, with x for the sum.
struct Gradient {
  int64_t columns;
  const float *dy, *dsum, *x, *gamma, *mean, *inverse_std;
  float *dx, *dresidual, *dbias, *dgamma, *dbeta;  // the last three: partial sums

  // The row means of g and of g n, for the rows of [begin, end).
  HWY_INLINE void find_means(int64_t begin, int64_t end, float* g_mean, float* gn_mean) const {
    const Floats d;
    const FourFloats d4;
    const auto count = hn::Set(d4, static_cast<float>(columns));
    for (int64_t first = begin; first < end; first += kGroup) {
      FloatVector g_sums[kGroup], gn_sums[kGroup];
#pragma GCC unroll 4
      for (int64_t i = 0; i < kGroup; ++i) {
        const int64_t row = std::min(first + i, end - 1);  // an incomplete group does its last row again
        const float *row_dy = dy + row * columns, *row_x = x + row * columns, *scale = gamma;
        const FloatVector centre = hn::Set(d, mean[row]), factor = hn::Set(d, inverse_std[row]);
        FloatVector g_sum = hn::Zero(d), gn_sum = hn::Zero(d);
        for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
          // Beyond a row's end dy is loaded as zero, which makes every term zero.
          const FloatVector g = hn::Mul(lanes.load(row_dy + c), lanes.load(scale + c));
          g_sum = hn::Add(g_sum, g);
          gn_sum = hn::MulAdd(g, hn::Mul(hn::Sub(lanes.load(row_x + c), centre), factor), gn_sum);
        });
        g_sums[i] = g_sum;
        gn_sums[i] = gn_sum;
      }
      hn::StoreU(hn::Div(sums_of_lanes(g_sums), count), d4, g_mean + first - begin);
      hn::StoreU(hn::Div(sums_of_lanes(gn_sums), count), d4, gn_mean + first - begin);
    }
  }

  // Columns [column, column + count) of a row.
  template <class Dropped>
  HWY_INLINE void add_piece(int64_t row, int64_t column, int64_t count, float row_g_mean, float row_gn_mean,
                            Dropped dropped) const {
    const Floats d;
    const int64_t start = row * columns;
    const float *row_dy = dy + start, *row_dsum = dsum ? dsum + start : nullptr, *row_x = x + start, *scale = gamma;
    float *row_dx = dx + start, *row_dresidual = dresidual ? dresidual + start : nullptr;
    float *bias_sums = dbias, *gamma_sums = dgamma, *beta_sums = dbeta;
    const FloatVector centre = hn::Set(d, mean[row]), factor = hn::Set(d, inverse_std[row]);
    const FloatVector g_mean = hn::Set(d, row_g_mean), gn_mean = hn::Set(d, row_gn_mean);
    for_lanes(column, column + count, [&](int64_t c, auto lanes) HWY_ATTR {
      const FloatVector gradient = lanes.load(row_dy + c);
      const FloatVector n = hn::Mul(hn::Sub(lanes.load(row_x + c), centre), factor);
      // g is rounded as it was when summed: a row of equal g then has exactly no gradient.
      const FloatVector g = hn::Sub(hn::Mul(gradient, lanes.load(scale + c)), g_mean);
      const FloatVector others = row_dsum ? lanes.load(row_dsum + c) : hn::Zero(d);
      const FloatVector total = hn::MulAdd(hn::NegMulAdd(n, gn_mean, g), factor, others);
      const FloatVector kept = dropped(total);
      lanes.store(bias_sums ? kept : hn::Add(lanes.load(row_dx + c), kept), row_dx + c);
      if (bias_sums) lanes.store(hn::Add(lanes.load(bias_sums + c), kept), bias_sums + c);
      if (row_dresidual) lanes.store(hn::Add(lanes.load(row_dresidual + c), total), row_dresidual + c);
      lanes.store(hn::MulAdd(gradient, n, lanes.load(gamma_sums + c)), gamma_sums + c);
      lanes.store(hn::Add(gradient, lanes.load(beta_sums + c)), beta_sums + c);
    });
  }

  HWY_INLINE void add_chunk(const RowDropout& dropout, int64_t begin, int64_t end) const {
    float g_mean[kMaxChunk], gn_mean[kMaxChunk];
    find_means(begin, end, g_mean, gn_mean);
    dropout.for_pieces(begin, end, columns, [&](int64_t row, int64_t column, int64_t count, auto dropped) HWY_ATTR {
      add_piece(row, column, count, g_mean[row - begin], gn_mean[row - begin], dropped);
    });
  }
};

void layer_norm_backward(CpuStream stream, const LayerNormBackward<float>& args) {
  const int64_t columns = args.sum.columns(), blocks = block_count(args.sum.rows(), kSumRows);
  const int64_t stride = args.sums_columns();
  float* partials = take_partials(stream, args);
  const RowDropout dropout(args.row_ids, args.probability, args.key);
  parallel_blocks(args.sum.rows(), kSumRows, [&](int64_t begin, int64_t end) HWY_ATTR {
    float* sums = partials + begin / kSumRows * stride;
    std::fill(sums, sums + stride, 0.0f);
    const Gradient gradient{.columns = columns,
                            .dy = args.dy.data(),
                            .dsum = args.dsum.data(),
                            .x = args.sum.data(),
                            .gamma = args.gamma.data(),
                            .mean = args.mean.data(),
                            .inverse_std = args.inverse_std.data(),
                            .dx = args.dx.data(),
                            .dresidual = args.dresidual.data(),
                            .dbias = args.dbias ? sums + 2 * columns : nullptr,
                            .dgamma = sums,
                            .dbeta = sums + columns};
    for_chunks(begin, end, chunk_rows(columns),
               [&](int64_t first, int64_t last) HWY_ATTR { gradient.add_chunk(dropout, first, last); });
  });
  add_partials(partials, blocks, stride, args.dgamma.data(), columns);
  add_partials(partials + columns, blocks, stride, args.dbeta.data(), columns);
  if (args.dbias) add_partials(partials + 2 * columns, blocks, stride, args.dbias.data(), columns);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(layer_norm_forward);
HWY_EXPORT(layer_norm_backward);

void launch(CpuStream stream, const LayerNormForward<float>& args) {
  HWY_DYNAMIC_DISPATCH(layer_norm_forward)(stream, args);
}

void launch(CpuStream stream, const LayerNormBackward<float>& args) {
  HWY_DYNAMIC_DISPATCH(layer_norm_backward)(stream, args);
}

int64_t scratch_bytes(CpuStream, const LayerNormBackward<float>& args) {
  const int64_t sums = block_count(args.sum.rows(), HWY_NAMESPACE::kSumRows) * args.sums_columns();
  return sums * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
#endif
