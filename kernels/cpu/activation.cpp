#include "kernels/activation.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activation.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {
namespace {

// Both forms of GELU are x s(x) with s(-t) = 1 - s(t), which for t = |x| gives
//   GELU(x) = max(x, 0) - t s(-t),   GELU'(x) = x > 0 ? 1 - g(t) : g(t)   with g(t) = GELU'(-t).
// Both right-hand functions of t fall to zero by t = 6. They are tabulated: one polynomial for each interval of t, as
// many intervals as a vector has lanes, so that a coefficient is one shuffle away. That is half of the instructions of
// an exponential and a polynomial for erf, and leaves an absolute error below 1e-7.
double erf_tail(double t) {
  return t * std::erfc(t * M_SQRT1_2) / 2;
}
double erf_slope(double t) {
  return std::erfc(t * M_SQRT1_2) / 2 - t * std::exp(-t * t / 2) / std::sqrt(2 * M_PI);
}
double tanh_share(double t) {
  return 1 / (1 + std::exp(2 * std::sqrt(2 / M_PI) * (t + 0.044715 * t * t * t)));
}
double tanh_tail(double t) {
  return t * tanh_share(t);
}
double tanh_slope(double t) {
  const double share = tanh_share(t);
  return share - t * share * (1 - share) * 2 * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * t * t);
}

// The degree and the intervals' width for vectors of 8 and of 16 lanes.
static_assert(kFloatLanes == 8 || kFloatLanes == 16);
constexpr int kDegree = kFloatLanes == 16 ? 5 : 7;
constexpr float kWidth = kFloatLanes == 16 ? 53.0f / 128 : 59.0f / 64;
constexpr float kEnd = (kFloatLanes - 1) * kWidth;

// A function of t >= 0 that is zero from about 6 on. Interval n is kWidth wide and centred at n kWidth; the last one
// stands for everything beyond and holds zeros.
class Table {
 public:
  explicit Table(double (*function)(double)) {
    for (int64_t interval = 0; interval + 1 < kFloatLanes; ++interval) interpolate(function, interval);
  }

  // Copies of the coefficients that the compiler may hold in registers: unlike members, no store can change them.
  struct Loaded {
    explicit HWY_INLINE Loaded(const Table& table) {
#pragma GCC unroll 8
      for (int power = 0; power <= kDegree; ++power) {
        coefficients[power] = hn::Load(Floats(), table.coefficients_[power]);
      }
    }
    // At |x|.
    HWY_INLINE FloatVector operator()(FloatVector t) const {
      const Floats d;
      const hn::RebindToSigned<Floats> di;
      // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
      const FloatVector rounder = hn::Set(d, 12582912.0f);
      const FloatVector shifted = hn::MulAdd(t, hn::Set(d, 1 / kWidth), rounder);
      const auto interval = hn::And(hn::BitCast(di, shifted), hn::Set(di, kFloatLanes - 1));
      const auto indices = hn::IndicesFromVec(d, interval);
      const FloatVector r = hn::NegMulAdd(hn::Sub(shifted, rounder), hn::Set(d, kWidth), t);
      FloatVector value = hn::TableLookupLanes(coefficients[kDegree], indices);
#pragma GCC unroll 8
      for (int power = kDegree - 1; power >= 0; --power) {
        value = hn::MulAdd(value, r, hn::TableLookupLanes(coefficients[power], indices));
      }
      return value;
    }
    FloatVector coefficients[kDegree + 1];
  };

 private:
  // Through the Chebyshev nodes of the interval, by divided differences, then expanded into powers.
  void interpolate(double (*function)(double), int64_t interval) {
    double nodes[kDegree + 1], differences[kDegree + 1], powers[kDegree + 1] = {};
    for (int i = 0; i <= kDegree; ++i) {
      nodes[i] = kWidth / 2 * std::cos(M_PI * (i + 0.5) / (kDegree + 1));
      differences[i] = function(static_cast<double>(interval) * kWidth + nodes[i]);
    }
    for (int order = 1; order <= kDegree; ++order) {
      for (int i = kDegree; i >= order; --i) {
        differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order]);
      }
    }
    for (int i = kDegree; i >= 0; --i) {
      for (int power = kDegree; power > 0; --power) powers[power] = powers[power - 1] - nodes[i] * powers[power];
      powers[0] = differences[i] - nodes[i] * powers[0];
    }
    for (int power = 0; power <= kDegree; ++power) coefficients_[power][interval] = static_cast<float>(powers[power]);
  }

  alignas(64) float coefficients_[kDegree + 1][kFloatLanes] = {};
};

void gelu_forward(const ActivationForward<float>& args, const Table& table) {
  const float* x = args.x.data();
  float* y = args.y.data();
  parallel_blocks(args.x.size(), kFlatBlock, [&](int64_t begin, int64_t end) HWY_ATTR {
    const Table::Loaded tail(table);
    for_lanes(begin, end, [&](int64_t i, auto lanes) HWY_ATTR {
      const Floats d;
      const FloatVector value = lanes.load(x + i);
      // The order of operands lets NaN through.
      const FloatVector t = hn::Min(hn::Set(d, kEnd), hn::Abs(value));
      lanes.store(hn::Sub(hn::Max(hn::Zero(d), value), tail(t)), y + i);
    });
  });
}

void relu_forward(const ActivationForward<float>& args) {
  parallel_lanes(args.x.size(), [x = args.x.data(), y = args.y.data()](int64_t i, auto lanes)
                                    HWY_ATTR { lanes.store(hn::Max(hn::Zero(Floats()), lanes.load(x + i)), y + i); });
}

// What reaches x of a gradient of y.
struct GeluGradient {
  explicit HWY_INLINE GeluGradient(const Table& table) : slope(table) {}
  HWY_INLINE FloatVector operator()(FloatVector x, FloatVector dy) const {
    const Floats d;
    const FloatVector g = slope(hn::Min(hn::Set(d, kEnd), hn::Abs(x)));
    return hn::Mul(dy, hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Sub(hn::Set(d, 1.0f), g), g));
  }
  Table::Loaded slope;
};
struct ReluGradient {
  HWY_INLINE FloatVector operator()(FloatVector x, FloatVector dy) const {
    return hn::IfThenElseZero(hn::Gt(x, hn::Zero(Floats())), dy);
  }
};

// load() gives one of the above, for each task anew.
template <class Load>
void backward(CpuStream stream, const ActivationBackward<float>& args, const Load& load) {
  const int64_t columns = args.x.columns(), blocks = block_count(args.x.rows(), kSumRows);
  const float *x = args.x.data(), *dy = args.dy.data();
  float* dx = args.dx.data();
  float* partials = take_partials(stream, args);
  parallel_blocks(args.x.rows(), kSumRows, [&](int64_t begin, int64_t end) HWY_ATTR {
    const auto gradient = load();
    float* sums = partials + begin / kSumRows * columns;
    std::fill(sums, sums + columns, 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      const float *row_x = x + row * columns, *row_dy = dy + row * columns;
      float* row_dx = dx + row * columns;
      for_lanes(0, columns, [&](int64_t c, auto lanes) HWY_ATTR {
        const FloatVector value = gradient(lanes.load(row_x + c), lanes.load(row_dy + c));
        lanes.store(value, row_dx + c);
        lanes.store(hn::Add(lanes.load(sums + c), value), sums + c);
      });
    }
  });
  add_partials(partials, blocks, columns, args.dbias.data(), columns);
}

void activation_forward(CpuStream, const ActivationForward<float>& args) {
  static const Table kErf(erf_tail), kTanh(tanh_tail);
  switch (args.activation) {
    case Activation::kGeluErf:
      return gelu_forward(args, kErf);
    case Activation::kGeluTanh:
      return gelu_forward(args, kTanh);
    case Activation::kRelu:
      return relu_forward(args);
  }
}

void activation_backward(CpuStream stream, const ActivationBackward<float>& args) {
  static const Table kErf(erf_slope), kTanh(tanh_slope);
  switch (args.activation) {
    case Activation::kGeluErf:
      return backward(stream, args, []() HWY_ATTR { return GeluGradient(kErf); });
    case Activation::kGeluTanh:
      return backward(stream, args, []() HWY_ATTR { return GeluGradient(kTanh); });
    case Activation::kRelu:
      return backward(stream, args, []() HWY_ATTR { return ReluGradient(); });
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {

HWY_EXPORT(activation_forward);
HWY_EXPORT(activation_backward);

void launch(CpuStream stream, const ActivationForward<float>& args) {
  HWY_DYNAMIC_DISPATCH(activation_forward)(stream, args);
}

void launch(CpuStream stream, const ActivationBackward<float>& args) {
  HWY_DYNAMIC_DISPATCH(activation_backward)(stream, args);
}

int64_t scratch_bytes(CpuStream, const ActivationBackward<float>& args) {
  return block_count(args.x.rows(), HWY_NAMESPACE::kSumRows) * args.x.columns() * static_cast<int64_t>(sizeof(float));
}

}  // namespace itemloom
#endif
