#include "kernels/layer_norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/layer_norm.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// kRows rows at once: their sums are independent, which hides the latency of additions and of the square root.
template <int kRows>
HWY_INLINE void normalise_rows(const LayerNormForward& args, int64_t first_row) {
  const Floats d;
  const int64_t columns = args.x.columns();
  const float* x = args.x.row(first_row);
  FloatVector sums[kRows];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) sums[row] = hn::Zero(d);
  for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) sums[row] = hn::Add(sums[row], lanes.load(x + row * columns + c));
  });

  float mean[kRows], inverse_std[kRows];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    mean[row] = sum_of_lanes(sums[row]) / static_cast<float>(columns);
    sums[row] = hn::Zero(d);
  }
  for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      const FloatVector centred = lanes.zero_others(hn::Sub(lanes.load(x + row * columns + c), hn::Set(d, mean[row])));
      sums[row] = hn::MulAdd(centred, centred, sums[row]);
    }
  });
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    const float variance = sum_of_lanes(sums[row]) / static_cast<float>(columns);
    inverse_std[row] = 1 / std::sqrt(variance + args.epsilon);
    args.mean[first_row + row] = mean[row];
    args.inverse_std[first_row + row] = inverse_std[row];
  }

  const float *gamma = args.gamma.data(), *beta = args.beta.data();
  float* y = args.y.row(first_row);
  for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
    const FloatVector scale = lanes.load(gamma + c), shift = lanes.load(beta + c);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      const FloatVector centred = hn::Sub(lanes.load(x + row * columns + c), hn::Set(d, mean[row]));
      const FloatVector normal = hn::Mul(centred, hn::Set(d, inverse_std[row]));
      lanes.store(hn::MulAdd(normal, scale, shift), y + row * columns + c);
    }
  });
}

void layer_norm_forward(CpuStream, const LayerNormForward& args) {
  parallel_blocks(args.x.rows(), rows_per_task(args.x.columns()), [&](int64_t begin, int64_t end) HWY_ATTR {
    int64_t row = begin;
    for (; row + 4 <= end; row += 4) normalise_rows<4>(args, row);
    for (; row < end; ++row) normalise_rows<1>(args, row);
  });
}

// With n = (x - mean) inverse_std and g = dy gamma:
//   dx += inverse_std (g - mean_c(g) - n mean_c(g n)),  dgamma += sum_r dy n,  dbeta += sum_r dy.
template <int kRows>
HWY_INLINE void differentiate_rows(const LayerNormBackward& args, int64_t first_row, float* dgamma, float* dbeta) {
  const Floats d;
  const int64_t columns = args.x.columns();
  const float *x = args.x.row(first_row), *dy = args.dy.row(first_row), *gamma = args.gamma.data();
  const float *mean = args.mean.data() + first_row, *inverse_std = args.inverse_std.data() + first_row;
  const auto normal = [=](int row, int64_t c, auto lanes) HWY_ATTR {
    const FloatVector centred = hn::Sub(lanes.load(x + row * columns + c), hn::Set(d, mean[row]));
    return hn::Mul(centred, hn::Set(d, inverse_std[row]));
  };

  FloatVector g_sums[kRows], gn_sums[kRows];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) g_sums[row] = gn_sums[row] = hn::Zero(d);
  for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
    const FloatVector scale = lanes.load(gamma + c);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      // Beyond a row's end dy is loaded as zero, which makes every term zero.
      const FloatVector g = hn::Mul(lanes.load(dy + row * columns + c), scale);
      g_sums[row] = hn::Add(g_sums[row], g);
      gn_sums[row] = hn::MulAdd(g, normal(row, c, lanes), gn_sums[row]);
    }
  });
  float g_mean[kRows], gn_mean[kRows];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    g_mean[row] = sum_of_lanes(g_sums[row]) / static_cast<float>(columns);
    gn_mean[row] = sum_of_lanes(gn_sums[row]) / static_cast<float>(columns);
  }

  float* dx = args.dx.row(first_row);
  for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
    const FloatVector scale = lanes.load(gamma + c);
    FloatVector gamma_sum = lanes.load(dgamma + c), beta_sum = lanes.load(dbeta + c);
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      const FloatVector gradient = lanes.load(dy + row * columns + c), n = normal(row, c, lanes);
      gamma_sum = hn::MulAdd(gradient, n, gamma_sum);
      beta_sum = hn::Add(beta_sum, gradient);
      // Rounded as it was when summed: a row of equal g then has exactly no gradient.
      const FloatVector g = hn::Sub(hn::Mul(gradient, scale), hn::Set(d, g_mean[row]));
      const FloatVector projected = hn::NegMulAdd(n, hn::Set(d, gn_mean[row]), g);
      float* to = dx + row * columns + c;
      lanes.store(hn::MulAdd(projected, hn::Set(d, inverse_std[row]), lanes.load(to)), to);
    }
    lanes.store(gamma_sum, dgamma + c);
    lanes.store(beta_sum, dbeta + c);
  });
}

void layer_norm_backward(CpuStream stream, const LayerNormBackward& args) {
  const int64_t columns = args.x.columns(), blocks = block_count(args.x.rows(), kSumRows);
  float* partials = stream.scratch->take<float>(blocks * 2 * columns);
  parallel_blocks(args.x.rows(), kSumRows, [&](int64_t begin, int64_t end) HWY_ATTR {
    float *dgamma = partials + begin / kSumRows * 2 * columns, *dbeta = dgamma + columns;
    std::fill(dgamma, dgamma + 2 * columns, 0.0f);
    int64_t row = begin;
    for (; row + 4 <= end; row += 4) differentiate_rows<4>(args, row, dgamma, dbeta);
    for (; row < end; ++row) differentiate_rows<1>(args, row, dgamma, dbeta);
  });
  add_partials(partials, blocks, 2 * columns, args.dgamma.data(), columns);
  add_partials(partials + columns, blocks, 2 * columns, args.dbeta.data(), columns);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(layer_norm_forward);
HWY_EXPORT(layer_norm_backward);

void launch(CpuStream stream, const LayerNormForward& args) {
  HWY_DYNAMIC_DISPATCH(layer_norm_forward)(stream, args);
}

void launch(CpuStream stream, const LayerNormBackward& args) {
  HWY_DYNAMIC_DISPATCH(layer_norm_backward)(stream, args);
}

}  // namespace itemloom
#endif
