#include "kernels/reduce.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reduce.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// Squares of floats are exact in double and cannot overflow there, so only the additions round, each by 2^-53.
double sum_of_squares_block(const float* x, int64_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> d_half;
  constexpr int64_t kLanes = hn::MaxLanes(hn::ScalableTag<double>());
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const auto x0 = hn::PromoteTo(d, hn::LoadU(d_half, x + i));
    const auto x1 = hn::PromoteTo(d, hn::LoadU(d_half, x + i + kLanes));
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < count; ++i) sum += double{x[i]} * x[i];
  return sum;
}

void sum_of_squares(CpuStream, const SumOfSquares& args) {
  parallel_blocks(args.x.size(), kSumOfSquaresBlock, [&](int64_t begin, int64_t end) {
    args.partials[begin / kSumOfSquaresBlock] = sum_of_squares_block(args.x.data() + begin, end - begin);
  });
}

// sums[c] += x[0][c] + ... + x[kRows - 1][c]
template <int kRows>
HWY_INLINE void add_rows(const float* x, int64_t columns, float* sums) {
  for_lanes(0, columns, [=](int64_t c, auto lanes) HWY_ATTR {
    FloatVector sum = lanes.load(sums + c);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) sum = hn::Add(sum, lanes.load(x + row * columns + c));
    lanes.store(sum, sums + c);
  });
}

void column_sum(CpuStream stream, const ColumnSum<float>& args) {
  const int64_t columns = args.x.columns(), blocks = block_count(args.x.rows(), kSumRows);
  float* partials = take_partials(stream, args);
  parallel_blocks(args.x.rows(), kSumRows, [&](int64_t begin, int64_t end) HWY_ATTR {
    float* sums = partials + begin / kSumRows * columns;
    std::fill(sums, sums + columns, 0.0f);
    int64_t row = begin;
    for (; row + 4 <= end; row += 4) {
      prefetch(args.x.row(row), 4 * columns);
      add_rows<4>(args.x.row(row), columns, sums);
    }
    for (; row < end; ++row) add_rows<1>(args.x.row(row), columns, sums);
  });
  add_partials(partials, blocks, columns, args.y.data(), columns);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(sum_of_squares);
HWY_EXPORT(column_sum);

void launch(CpuStream stream, const SumOfSquares& args) {
  HWY_DYNAMIC_DISPATCH(sum_of_squares)(stream, args);
}

void launch(CpuStream stream, const ColumnSum<float>& args) {
  HWY_DYNAMIC_DISPATCH(column_sum)(stream, args);
}

int64_t scratch_bytes(CpuStream, const ColumnSum<float>& args) {
  return block_count(args.x.rows(), HWY_NAMESPACE::kSumRows) * args.x.columns() * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
#endif
