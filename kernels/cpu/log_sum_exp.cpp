// A task a row, which is read twice: for its greatest and for the sum. The sum is taken in double over blocks that are
// short enough for sums in float.
#include "kernels/log_sum_exp.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/log_sum_exp.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

constexpr int64_t kSumBlock = 1024;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

float greatest(const float* x, int64_t columns) {
  const Floats d;
  FloatVector tops = hn::Set(d, kNothing);
  int64_t c = 0;
  for (; c + kFloatLanes <= columns; c += kFloatLanes) tops = hn::Max(tops, hn::LoadU(d, x + c));
  float top = hn::GetLane(hn::MaxOfLanes(d, tops));
  for (; c < columns; ++c) top = std::max(top, x[c]);
  return top;
}

double log_sum(const float* x, int64_t columns) {
  const Floats d;
  const float top = greatest(x, columns);
  // The greatest of -infinity and a NaN may be either.
  if (top == kNothing && std::all_of(x, x + columns, [](float value) { return value == kNothing; })) return top;
  const FloatVector tops = hn::Set(d, top);
  double total = 0;
  for (int64_t begin = 0; begin < columns; begin += kSumBlock) {
    FloatVector sum = hn::Zero(d);
    for_lanes(begin, std::min(begin + kSumBlock, columns), [&](int64_t c, auto lanes) HWY_ATTR {
      sum = hn::Add(sum, lanes.zero_others(exp_nonpositive(d, hn::Sub(lanes.load(x + c), tops))));
    });
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  return double{top} + std::log(total);
}

void log_sums(const LogSumExp& args) {
  parallel_for(args.x.rows(), [&](int64_t row) HWY_ATTR { args.y[row] = log_sum(args.x.row(row), args.x.columns()); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(log_sums);

void launch(CpuStream, const LogSumExp& args) {
  HWY_DYNAMIC_DISPATCH(log_sums)(args);
}

}  // namespace itemloom
#endif
