// Vector math for the CPU kernels, compiled once per instruction set. Include it after <hwy/highway.h> inside a file
// that foreach_target.h includes again for each target; the guard below toggles so that every pass sees it.
//
// The polynomials are weighted minimax fits (iterated reweighted least squares on Chebyshev nodes) made for this file;
// the error each one leaves is stated beside it.
#if defined(ITEMLOOM_CORE_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef ITEMLOOM_CORE_SIMD_INL_H
#undef ITEMLOOM_CORE_SIMD_INL_H
#else
#define ITEMLOOM_CORE_SIMD_INL_H
#endif

#include <cstdint>

#include "core/rng.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// e^x for x in [-87.3, 88.7], without a look at the range. Relative error below 1e-7.
// x = n log 2 + r with |r| <= log(2)/2, and 1 + r + r^2 q(r) leaves 3e-9 relative; 2^n is added to the exponent bits.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_in_range(D d, V x) {
  const hn::RebindToSigned<D> di;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
  const V rounder = hn::Set(d, 12582912.0f);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), rounder);
  const V n = hn::Sub(shifted, rounder);
  V r = hn::NegMulAdd(n, hn::Set(d, 0x1.62e4p-1f), x);  // 15 bits of log 2, so that n times it is exact
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860677e-06f), r);
  V p = hn::Set(d, 0.00138145394f);
  p = hn::MulAdd(p, r, hn::Set(d, 0.00836874545f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.041668389f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.166665211f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.49999994f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

// e^x for x <= 0, -inf included (softmax: x is a difference to the maximum). Results below the smallest normal float
// are 0; NaN stays NaN. Relative error below 1e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_nonpositive(D d, V x) {
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3365402f)), exp_in_range(d, x));
}

// e^x for any x: 0 below the smallest normal float, infinity above the greatest. Relative error below 1e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  const V infinity = hn::Set(d, __builtin_inff());
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.7228317f)), infinity, exp_nonpositive(d, x));
}

// Both forms of GELU are x * s(x) with s(x) = 1 - s(-x). The kernels work with t = min(|x|, kGeluCap) and the tail
// q(t) = s(-t), which loses nothing to cancellation:
//   GELU(x) = max(x, 0) - t q(t),   GELU'(x) = x > 0 ? 1 - g(t) : g(t)   with g(t) = q(t) + t q'(t).
// From kGeluCap on the tail is far below one unit in the last place of anything it is added to.
inline constexpr float kGeluCap = 12.0f;

// erf form: q(t) = erfc(t / sqrt 2) / 2 = exp(-t^2 / 2) w(t). The polynomial for w keeps max(t, 1) q(t) within 5e-8.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_erf_tail(D d, V t, V exponential) {
  V w = hn::Set(d, -2.44198532e-07f);
  w = hn::MulAdd(w, t, hn::Set(d, 6.28714406e-06f));
  w = hn::MulAdd(w, t, hn::Set(d, -7.27642546e-05f));
  w = hn::MulAdd(w, t, hn::Set(d, 0.000507444551f));
  w = hn::MulAdd(w, t, hn::Set(d, -0.00242995587f));
  w = hn::MulAdd(w, t, hn::Set(d, 0.00871687941f));
  w = hn::MulAdd(w, t, hn::Set(d, -0.0251487661f));
  w = hn::MulAdd(w, t, hn::Set(d, 0.0617024191f));
  w = hn::MulAdd(w, t, hn::Set(d, -0.132719308f));
  w = hn::MulAdd(w, t, hn::Set(d, 0.249955684f));
  w = hn::MulAdd(w, t, hn::Set(d, -0.398939341f));
  w = hn::MulAdd(w, t, hn::Set(d, 0.49999997f));
  return hn::Mul(w, exponential);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_argument(D d, V x) {
  return hn::Min(hn::Set(d, kGeluCap), hn::Abs(x));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_from_tail(D d, V x, V t, V tail) {
  return hn::NegMulAdd(t, tail, hn::Max(hn::Zero(d), x));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_derivative_from_tail(D d, V x, V g) {
  return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Sub(hn::Set(d, 1.0f), g), g);
}

// x Phi(x). Absolute error below 1.5e-7 max(1, |x|).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_erf(D d, V x) {
  const V t = gelu_argument(d, x);
  const V e = exp_in_range(d, hn::Mul(hn::Mul(t, t), hn::Set(d, -0.5f)));
  return gelu_from_tail(d, x, t, gelu_erf_tail(d, t, e));
}

// Phi(x) + x phi(x). Absolute error below 2e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_erf_derivative(D d, V x) {
  const V t = gelu_argument(d, x);
  const V e = exp_in_range(d, hn::Mul(hn::Mul(t, t), hn::Set(d, -0.5f)));
  const V slope = hn::Mul(hn::Mul(t, hn::Set(d, 0.398942280f)), e);  // 1 / sqrt(2 pi)
  return gelu_derivative_from_tail(d, x, hn::Sub(gelu_erf_tail(d, t, e), slope));
}

// tanh form: s(x) = (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3); the tail is
// q = e / (1 + e) with e = exp(-2u(t)). Twice u is held at 80, where e is 2e-35, to stay in exp_in_range.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_tanh_tail(D d, V t) {
  const V slope = hn::MulAdd(hn::Mul(t, t), hn::Set(d, -1.59576912f * 0.044715f), hn::Set(d, -1.59576912f));
  const V e = exp_in_range(d, hn::Max(hn::Set(d, -80.0f), hn::Mul(t, slope)));
  return hn::Div(e, hn::Add(e, hn::Set(d, 1.0f)));
}

// x (1 + tanh u) / 2. Absolute error below 1.5e-7 max(1, |x|).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_tanh(D d, V x) {
  const V t = gelu_argument(d, x);
  return gelu_from_tail(d, x, t, gelu_tanh_tail(d, t));
}

// Its derivative; q' = -q (1 - q) 2u'. Absolute error below 3e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V gelu_tanh_derivative(D d, V x) {
  const V t = gelu_argument(d, x);
  const V q = gelu_tanh_tail(d, t);
  const V slope = hn::MulAdd(hn::Mul(t, t), hn::Set(d, 1.59576912f * 3 * 0.044715f), hn::Set(d, 1.59576912f));
  const V g = hn::NegMulAdd(hn::Mul(q, hn::Mul(t, slope)), hn::Sub(hn::Set(d, 1.0f), q), q);
  return gelu_derivative_from_tail(d, x, g);
}

// Lane i of the mask is bit i.
template <class D>
HWY_INLINE hn::Mask<D> mask_from_bits(D d, uint64_t bits) {
  return hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
}

// core/rng.h's dropout masks, 64 columns at a time: bit i of keep_bits(row_id, chunk) says whether column
// 64 * chunk + i is kept. Philox words sit in the low halves of 64-bit lanes, one block a lane, so that one widening
// multiply gives both halves of a product in place.
class DropoutMask {
 public:
  DropoutMask(const DropoutKey& key, float probability)
      : stream_(key.stream), step_(key.step), threshold_(dropout_threshold(probability)) {
    uint32_t key0 = static_cast<uint32_t>(key.seed), key1 = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      keys_[round][0] = key0;
      keys_[round][1] = key1;
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
  }

  HWY_INLINE uint64_t keep_bits(uint32_t row_id, int64_t chunk) const {
    if (threshold_ > 0xFFFF) return 0;
    const hn::ScalableTag<uint16_t> d16;
    constexpr int64_t kColumns = 2 * hn::MaxLanes(hn::ScalableTag<uint16_t>());
    const auto threshold = hn::Set(d16, static_cast<uint16_t>(threshold_));
    alignas(8) uint8_t bits[16];
    for (int64_t column = 0; column < 64; column += kColumns) {
      hn::Vec<decltype(d16)> low, high;
      draw(row_id, static_cast<uint32_t>(chunk * 8 + column / 8), low, high);
      hn::StoreMaskBits(d16, hn::Eq(hn::Max(low, threshold), low), bits + column / 8);
      hn::StoreMaskBits(d16, hn::Eq(hn::Max(high, threshold), high), bits + column / 8 + kColumns / 16);
    }
    uint64_t result;
    __builtin_memcpy(&result, bits, sizeof result);
    return result;
  }

 private:
  // The 16-bit lanes of Lanes(u64) consecutive blocks from `first_block` on, in column order.
  template <class V16>
  HWY_INLINE void draw(uint32_t row_id, uint32_t first_block, V16& low, V16& high) const {
    const hn::ScalableTag<uint64_t> d;
    const hn::ScalableTag<uint32_t> d32;
    const hn::ScalableTag<uint16_t> d16;
    using V = hn::Vec<decltype(d)>;
    const auto multiplier0 = hn::Set(d32, 0xD2511F53u), multiplier1 = hn::Set(d32, 0xCD9E8D57u);
    V c0 = hn::Add(hn::Set(d, first_block), hn::Load(d, kBlockOrder));
    V c1 = hn::Set(d, stream_), c2 = hn::Set(d, row_id), c3 = hn::Set(d, step_);
    for (const auto& key : keys_) {
      const V product0 = hn::MulEven(hn::BitCast(d32, c0), multiplier0);
      const V product1 = hn::MulEven(hn::BitCast(d32, c2), multiplier1);
      c0 = hn::Xor3(hn::ShiftRight<32>(product1), c1, hn::Set(d, key[0]));
      c2 = hn::Xor3(hn::ShiftRight<32>(product0), c3, hn::Set(d, key[1]));
      c1 = product1;
      c3 = product0;
    }
    const V c01 = hn::BitCast(d, hn::OddEven(hn::BitCast(d32, hn::ShiftLeft<32>(c1)), hn::BitCast(d32, c0)));
    const V c23 = hn::BitCast(d, hn::OddEven(hn::BitCast(d32, hn::ShiftLeft<32>(c3)), hn::BitCast(d32, c2)));
    low = hn::BitCast(d16, hn::InterleaveLower(d, c01, c23));
    high = hn::BitCast(d16, hn::InterleaveUpper(d, c01, c23));
  }

  // Interleaving takes even lanes into `low` and odd lanes into `high`: this order makes both consecutive.
  static constexpr bool kEightLanes = hn::MaxLanes(hn::ScalableTag<uint64_t>()) == 8;
  alignas(64) static constexpr uint64_t kBlockOrder[8] = {0, kEightLanes ? 4 : 2, 1, kEightLanes ? 5 : 3, 2, 6, 3, 7};

  uint32_t stream_, step_, threshold_;
  uint64_t keys_[10][2];
};

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif
