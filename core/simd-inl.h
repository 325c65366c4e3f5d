// Vector math for the CPU kernels, compiled once per instruction set. Include it after <hwy/highway.h> inside a file
// that foreach_target.h includes again for each target; the guard below toggles so that every pass sees it.
//
// The polynomial is a weighted minimax fit (iterated reweighted least squares on Chebyshev nodes) made for this file.
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

// Lane i of the mask is bit i.
template <class D>
HWY_INLINE hn::Mask<D> mask_from_bits(D d, uint64_t bits) {
  return hn::LoadMaskBits(d, reinterpret_cast<const uint8_t*>(&bits));
}

// core/rng.h's dropout masks, 64 columns at a time: bit i of keep_bits(row_id, chunk) says whether column
// 64 * chunk + i is kept. Philox words sit in the low halves of 64-bit lanes, one block a lane, so that one widening
// multiply gives both halves of a product in place. A draw is one long chain of instructions: four chunks asked for
// together (of one row or of several) take half of the time.
class DropoutMask {
 public:
  DropoutMask(const DropoutKey& key, float probability)
      : stream_(key.stream), step_(key.step()), threshold_(dropout_threshold(probability)) {
    uint32_t key0 = static_cast<uint32_t>(key.seed), key1 = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      keys_[round][0] = key0;
      keys_[round][1] = key1;
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
  }

  struct Chunk {
    uint32_t row_id;
    int64_t chunk;
  };
  HWY_INLINE uint64_t keep_bits(uint32_t row_id, int64_t chunk) const {
    const Chunk one[] = {{row_id, chunk}};
    uint64_t bits[1];
    keep_bits(one, bits);
    return bits[0];
  }

  template <int kChunks>
  HWY_INLINE void keep_bits(const Chunk (&chunks)[kChunks], uint64_t (&bits)[kChunks]) const {
    // A draw gives all of a chunk with 16 float lanes to a vector, half of one with 8. The registers hold four draws
    // at once, or two.
    constexpr int kColumns = 2 * hn::MaxLanes(D16()), kDraws = kChunks * 64 / kColumns;
    constexpr int kAtOnce = kColumns == 64 ? (kDraws < 4 ? kDraws : 4) : 2;
    static_assert(kDraws % kAtOnce == 0);
    for (int first = 0; first < kDraws; first += kAtOnce) {
      Words words[kAtOnce];
#pragma GCC unroll 4
      for (int i = 0; i < kAtOnce; ++i) {
        const int column = (first + i) * kColumns;
        const Chunk& from = chunks[column / 64];
        words[i] = first_words(from.row_id, static_cast<uint32_t>(from.chunk * 8 + column % 64 / 8));
      }
      for (const auto& key : keys_) {
#pragma GCC unroll 4
        for (int i = 0; i < kAtOnce; ++i) words[i] = next_round(words[i], key);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kAtOnce; ++i) {
        const int column = (first + i) * kColumns;
        uint64_t& to = bits[column / 64];
        to = (column % 64 == 0 ? 0 : to) | compare(words[i]) << column % 64;
      }
    }
  }

 private:
  using D64 = hn::ScalableTag<uint64_t>;
  using D32 = hn::ScalableTag<uint32_t>;
  using D16 = hn::ScalableTag<uint16_t>;
  using V = hn::Vec<D64>;
  // The four words of each of Lanes(u64) consecutive blocks; only the low halves of the lanes count.
  struct Words {
    V v0, v1, v2, v3;
  };

  HWY_INLINE Words first_words(uint32_t row_id, uint32_t first_block) const {
    const D64 d;
    return {hn::Add(hn::Set(d, first_block), hn::Load(d, kBlockOrder)), hn::Set(d, stream_), hn::Set(d, row_id),
            hn::Set(d, step_)};
  }
  HWY_INLINE Words next_round(Words words, const uint64_t (&key)[2]) const {
    const D64 d;
    const D32 d32;
    const V product0 = hn::MulEven(hn::BitCast(d32, words.v0), hn::Set(d32, 0xD2511F53u));
    const V product1 = hn::MulEven(hn::BitCast(d32, words.v2), hn::Set(d32, 0xCD9E8D57u));
    return {hn::Xor3(hn::ShiftRight<32>(product1), words.v1, hn::Set(d, key[0])), product1,
            hn::Xor3(hn::ShiftRight<32>(product0), words.v3, hn::Set(d, key[1])), product0};
  }
  // Bit i: whether column i of the blocks, in 16-bit lanes, reaches the threshold.
  HWY_INLINE uint64_t compare(Words words) const {
    if (threshold_ > 0xFFFF) return 0;
    const D64 d;
    const D32 d32;
    const D16 d16;
    const auto threshold = hn::Set(d16, static_cast<uint16_t>(threshold_));
    const auto join = [=](V low, V high) HWY_ATTR {
      return hn::BitCast(d, hn::OddEven(hn::BitCast(d32, hn::ShiftLeft<32>(high)), hn::BitCast(d32, low)));
    };
    const auto at_least = [=](V pairs) HWY_ATTR {
      const auto lanes = hn::BitCast(d16, pairs);
      uint64_t bits = 0;
      hn::StoreMaskBits(d16, hn::Eq(hn::Max(lanes, threshold), lanes), reinterpret_cast<uint8_t*>(&bits));
      return bits;
    };
    const V v01 = join(words.v0, words.v1), v23 = join(words.v2, words.v3);
    return at_least(hn::InterleaveLower(d, v01, v23)) | at_least(hn::InterleaveUpper(d, v01, v23)) << hn::MaxLanes(d16);
  }

  // Interleaving takes the even lanes first and then the odd ones: this order of blocks puts columns in order.
  static constexpr bool kEightLanes = hn::MaxLanes(hn::ScalableTag<uint64_t>()) == 8;
  alignas(64) static constexpr uint64_t kBlockOrder[8] = {0, kEightLanes ? 4 : 2, 1, kEightLanes ? 5 : 3, 2, 6, 3, 7};

  uint32_t stream_, step_, threshold_;
  uint64_t keys_[10][2];
};

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#endif
