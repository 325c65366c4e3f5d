// PTX floating-point instructions that C++ operators do not express: roundings, flushing, half types, conversions.
#pragma once

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>

namespace cuda_emulation {

enum class Rounding { kNearest, kNearestAway, kZero, kDown, kUp };

inline float float_of(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline double double_of(uint64_t bits) {
  return std::bit_cast<double>(bits);
}
inline uint32_t bits_of(float value) {
  return std::bit_cast<uint32_t>(value);
}
inline uint64_t bits_of(double value) {
  return std::bit_cast<uint64_t>(value);
}

// .ftz: subnormal numbers become zeros of their sign.
inline float flush(float value) {
  return std::fabs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
}
// .sat: [0, 1], and NaN becomes 0.
template <class T>
T clamp_to_unit(T value) {
  return value > 0 ? (value < 1 ? value : T{1}) : T{0};
}
inline float negated(float value) {
  return float_of(bits_of(value) ^ 0x80000000u);
}
inline double negated(double value) {
  return double_of(bits_of(value) ^ 0x8000000000000000ull);
}
inline float reciprocal_root(float value) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(value)));
}
inline double reciprocal_root(double value) {
  return 1.0 / std::sqrt(value);
}
template <class T>
T round_to_even(T value) {
  return std::nearbyint(value);
}

// A NaN loses against a number; -0 is less than +0.
template <class T>
T float_min(T a, T b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T>
T float_max(T a, T b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
// .NaN: a NaN wins.
template <class T>
T float_min_nan(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : float_min(a, b);
}
template <class T>
T float_max_nan(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : float_max(a, b);
}

// An integral floating-point value as an integer: saturates, and NaN becomes 0.
template <class To, class From>
To float_to_integer(From value) {
  using Limits = std::numeric_limits<To>;
  if (std::isnan(value)) return 0;
  // Both bounds are powers of two (or 0) and so are exact.
  const From beyond = std::ldexp(From{1}, Limits::digits);
  if (value >= beyond) return Limits::max();
  if (value < static_cast<From>(Limits::min())) return Limits::min();
  return static_cast<To>(value);
}

// Arithmetic in a rounding other than to nearest.
float rounded_add(float a, float b, Rounding mode);
double rounded_add(double a, double b, Rounding mode);
float rounded_sub(float a, float b, Rounding mode);
double rounded_sub(double a, double b, Rounding mode);
float rounded_mul(float a, float b, Rounding mode);
double rounded_mul(double a, double b, Rounding mode);
float rounded_div(float a, float b, Rounding mode);
double rounded_div(double a, double b, Rounding mode);
float rounded_fma(float a, float b, float c, Rounding mode);
double rounded_fma(double a, double b, double c, Rounding mode);
float rounded_sqrt(float value, Rounding mode);
double rounded_sqrt(double value, Rounding mode);
template <class T>
T round_to(long double value, Rounding mode);
template <>
float round_to<float>(long double value, Rounding mode);
template <>
double round_to<double>(long double value, Rounding mode);
// A double that rounds further as the exact value would: inexact values get an odd last digit.
double round_to_odd(long double value);
uint32_t round_to_tf32(uint32_t bits, Rounding mode);

// ---- Half types ----

struct Half {
  static constexpr int kExponentBits = 5, kFractionBits = 10;
};
struct BFloat16 {
  static constexpr int kExponentBits = 8, kFractionBits = 7;
};

float widen_f16(uint16_t bits);
inline float widen_bf16(uint16_t bits) {
  return float_of(uint32_t{bits} << 16);
}
template <class Type>
float widen(uint16_t bits);
template <>
inline float widen<Half>(uint16_t bits) {
  return widen_f16(bits);
}
template <>
inline float widen<BFloat16>(uint16_t bits) {
  return widen_bf16(bits);
}

// One rounding from a double (exact for every float) to a half type.
uint16_t narrow_bits(double value, int exponent_bits, int fraction_bits, Rounding mode);
template <class Type>
uint16_t narrow(double value, Rounding mode) {
  return narrow_bits(value, Type::kExponentBits, Type::kFractionBits, mode);
}
template <>
inline uint16_t narrow<BFloat16>(double value, Rounding mode) {
  // The frequent case: a float, to nearest.
  const float single = static_cast<float>(value);
  if (mode != Rounding::kNearest || static_cast<double>(single) != value) {
    return narrow_bits(value, BFloat16::kExponentBits, BFloat16::kFractionBits, mode);
  }
  const uint32_t bits = bits_of(single);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

enum class HalfOp { k_add, k_sub, k_mul, k_fma, k_min, k_max, k_min_nan, k_max_nan, k_abs, k_neg, k_ex2, k_tanh };

// A sum of doubles that may be rounded once more: when it is inexact, its last digit is made odd, so that it does not
// look like a tie.
inline double sum_to_odd(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double b_part = sum - a;
  const double error = (a - (sum - b_part)) + (b - b_part);
  if (error == 0 || (bits_of(sum) & 1)) return sum;
  return std::nextafter(sum,
                        error > 0 ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity());
}

template <HalfOp kOp>
double half_value(double a, double b, double c) {
  switch (kOp) {
    case HalfOp::k_add:
      return sum_to_odd(a, b);
    case HalfOp::k_sub:
      return sum_to_odd(a, -b);
    case HalfOp::k_mul:
      return a * b;
    case HalfOp::k_fma:
      return sum_to_odd(a * b, c);  // the product is exact
    case HalfOp::k_min:
      return float_min(a, b);
    case HalfOp::k_max:
      return float_max(a, b);
    case HalfOp::k_min_nan:
      return float_min_nan(a, b);
    case HalfOp::k_max_nan:
      return float_max_nan(a, b);
    case HalfOp::k_ex2:
      return std::exp2(a);
    case HalfOp::k_tanh:
      return std::tanh(a);
    default:
      return a;
  }
}

template <class Type, HalfOp kOp, bool kSaturate>
uint16_t half_lane(uint16_t a, uint16_t b, uint16_t c) {
  if (kOp == HalfOp::k_abs) return a & 0x7fff;
  if (kOp == HalfOp::k_neg) return a ^ 0x8000;
  double value = half_value<kOp>(widen<Type>(a), widen<Type>(b), widen<Type>(c));
  if (kSaturate) value = clamp_to_unit(value);
  return narrow<Type>(value, Rounding::kNearest);
}

// Applies an operation to one half or to each half of a pair.
template <class Type, int kLanes, HalfOp kOp, bool kSaturate = false>
uint32_t half_apply(uint32_t a, uint32_t b = 0, uint32_t c = 0) {
  uint32_t result = 0;
  for (int shift = 0; shift < 16 * kLanes; shift += 16) {
    const uint16_t lane = half_lane<Type, kOp, kSaturate>(
        static_cast<uint16_t>(a >> shift), static_cast<uint16_t>(b >> shift), static_cast<uint16_t>(c >> shift));
    result |= uint32_t{lane} << shift;
  }
  return result;
}

}  // namespace cuda_emulation
