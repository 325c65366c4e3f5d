#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/core/simd_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace itemloom {
namespace HWY_NAMESPACE {

// The sizes are multiples of the widest vector.
template <class Function>
HWY_INLINE void transform(const std::vector<float>& x, std::vector<float>& y, Function function) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < x.size(); i += hn::Lanes(d)) {
    hn::StoreU(function(d, hn::LoadU(d, x.data() + i)), d, y.data() + i);
  }
}
void all_exp(const std::vector<float>& x, std::vector<float>& y) {
  transform(x, y, [](auto d, auto v) HWY_ATTR { return exp(d, v); });
}
void all_exp_nonpositive(const std::vector<float>& x, std::vector<float>& y) {
  transform(x, y, [](auto d, auto v) HWY_ATTR { return exp_nonpositive(d, v); });
}
uint64_t keep_bits(const DropoutKey& key, float probability, uint32_t row_id, int64_t chunk) {
  return DropoutMask(key, probability).keep_bits(row_id, chunk);
}

void keep_bits_of_four(const DropoutKey& key, float probability, const uint32_t* row_ids, const int64_t* numbers,
                       uint64_t* to) {
  DropoutMask::Chunk chunks[4];
  for (int i = 0; i < 4; ++i) chunks[i] = {row_ids[i], numbers[i]};
  uint64_t bits[4];
  DropoutMask(key, probability).keep_bits(chunks, bits);
  for (int i = 0; i < 4; ++i) to[i] = bits[i];
}

// The lanes that mask_from_bits selects, as bits.
uint64_t masked_lanes(uint64_t bits) {
  const hn::ScalableTag<float> d;
  std::vector<float> lanes(hn::Lanes(d));
  hn::StoreU(hn::IfThenElseZero(mask_from_bits(d, bits), hn::Set(d, 1.0f)), d, lanes.data());
  uint64_t result = 0;
  for (size_t lane = 0; lane < lanes.size(); ++lane) result |= uint64_t{lanes[lane] != 0} << lane;
  return result;
}
int64_t lane_count() {
  return static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
}

}  // namespace HWY_NAMESPACE
}  // namespace itemloom
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace itemloom {
namespace {

HWY_EXPORT(all_exp);
HWY_EXPORT(all_exp_nonpositive);
HWY_EXPORT(keep_bits);
HWY_EXPORT(keep_bits_of_four);
HWY_EXPORT(masked_lanes);
HWY_EXPORT(lane_count);

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> grid(float low, float high) {
  std::vector<float> x(1 << 18);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = low + (high - low) * static_cast<float>(i) / static_cast<float>(x.size() - 1);
  }
  return x;
}

using Transform = void (*)(const std::vector<float>&, std::vector<float>&);

std::vector<float> apply(Transform transform, std::vector<float> x) {
  x.resize((x.size() + 15) / 16 * 16);
  std::vector<float> y(x.size());
  transform(x, y);
  return y;
}

// The greatest |error| / max(|expected|, floor) over the grid.
template <class Reference>
double grid_error(Transform transform, float low, float high, double floor, Reference reference) {
  const std::vector<float> x = grid(low, high);
  std::vector<double> expected;
  for (float value : x) expected.push_back(reference(double(value)));
  return test::worst_error(apply(transform, x), expected, floor);
}

}  // namespace

TEST_CASE("vector exp is exact to 1e-7 from the smallest normal float to the greatest", "[simd]") {
  const auto reference = [](double x) { return std::exp(x); };
  const Transform all = HWY_DYNAMIC_DISPATCH(all_exp), nonpositive = HWY_DYNAMIC_DISPATCH(all_exp_nonpositive);
  REQUIRE(grid_error(all, -87.336540f, 88.722831f, 0, reference) < 1e-7);
  REQUIRE(grid_error(all, -1, 1, 0, reference) < 1e-7);
  REQUIRE(grid_error(nonpositive, -87.336540f, 0, 0, reference) < 1e-7);
  REQUIRE(grid_error(nonpositive, -1, 0, 0, reference) < 1e-7);

  const std::vector<float> edges = apply(all, {0, -0.0f, -kInfinity, -1e30f, -87.5f, -150, kInfinity, 88.73f, 1e30f});
  REQUIRE(std::vector<float>(edges.begin(), edges.begin() + 9) ==
          std::vector<float>{1, 1, 0, 0, 0, 0, kInfinity, kInfinity, kInfinity});
  REQUIRE(std::isnan(apply(all, {kNan})[0]));
  REQUIRE(std::isnan(apply(nonpositive, {kNan})[0]));
  REQUIRE(apply(nonpositive, {-kInfinity})[0] == 0);
  REQUIRE(apply(nonpositive, {-1e38f})[0] == 0);
}

TEST_CASE("vector dropout masks are core/rng.h's to the bit", "[simd]") {
  const DropoutKey keys[] = {
      {0, 0, 0}, {7, 3, 1}, {0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, {0x123456789ABCDEF0, 77, 5}};
  for (const DropoutKey& key : keys) {
    for (float probability : {0.0f, 0.1f, 0.5f, 0.9f, 0.9999999f}) {
      for (uint32_t row_id : {0u, 1u, 12345u, 0xFFFFFFFFu}) {
        for (int64_t chunk : {0, 1, 2, 1000}) {
          uint64_t expected = 0;
          for (int64_t bit = 0; bit < 64; ++bit) {
            const uint32_t column = static_cast<uint32_t>(64 * chunk + bit);
            expected |= uint64_t{dropout_keeps(key, row_id, column, dropout_threshold(probability))} << bit;
          }
          REQUIRE(HWY_DYNAMIC_DISPATCH(keep_bits)(key, probability, row_id, chunk) == expected);
        }
      }
    }
  }
}

TEST_CASE("dropout masks drawn together are those drawn alone", "[simd]") {
  const DropoutKey key{0x123456789ABCDEF0, 77, 5};
  const uint32_t row_ids[] = {4, 0xFFFFFFFF, 4, 9};
  const int64_t chunks[] = {0, 3, 1, 100};
  for (float probability : {0.3f, 0.9999999f}) {
    uint64_t bits[4];
    HWY_DYNAMIC_DISPATCH(keep_bits_of_four)(key, probability, row_ids, chunks, bits);
    for (int i = 0; i < 4; ++i) {
      REQUIRE(bits[i] == HWY_DYNAMIC_DISPATCH(keep_bits)(key, probability, row_ids[i], chunks[i]));
    }
  }
}

TEST_CASE("lane i of a mask made from bits is bit i", "[simd]") {
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(lane_count)();
  const uint64_t below = (uint64_t{1} << lanes) - 1;
  for (uint64_t bits :
       {uint64_t{0}, ~uint64_t{0}, uint64_t{0xA5A5F00F13579BDF}, uint64_t{1} << 15, uint64_t{1} << 16}) {
    REQUIRE(HWY_DYNAMIC_DISPATCH(masked_lanes)(bits) == (bits & below));
  }
}

}  // namespace itemloom
#endif
