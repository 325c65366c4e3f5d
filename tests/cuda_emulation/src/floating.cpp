#include "floating.h"

namespace cuda_emulation {
namespace {

int fenv_mode(Rounding mode) {
  switch (mode) {
    case Rounding::kZero:
      return FE_TOWARDZERO;
    case Rounding::kDown:
      return FE_DOWNWARD;
    case Rounding::kUp:
      return FE_UPWARD;
    default:
      return FE_TONEAREST;
  }
}

// This file is compiled with -frounding-math; the volatile values keep the arithmetic between the two changes of mode.
template <class T, class Operation>
T with_rounding(Rounding mode, Operation operation) {
  std::fesetround(fenv_mode(mode));
  const volatile T result = operation();
  std::fesetround(FE_TONEAREST);
  return result;
}

template <class T>
struct Inputs {
  volatile T a, b, c;
};

}  // namespace

float rounded_add(float a, float b, Rounding mode) {
  const Inputs<float> in{a, b, 0};
  return with_rounding<float>(mode, [&] { return in.a + in.b; });
}
double rounded_add(double a, double b, Rounding mode) {
  const Inputs<double> in{a, b, 0};
  return with_rounding<double>(mode, [&] { return in.a + in.b; });
}
float rounded_sub(float a, float b, Rounding mode) {
  return rounded_add(a, -b, mode);
}
double rounded_sub(double a, double b, Rounding mode) {
  return rounded_add(a, -b, mode);
}
float rounded_mul(float a, float b, Rounding mode) {
  const Inputs<float> in{a, b, 0};
  return with_rounding<float>(mode, [&] { return in.a * in.b; });
}
double rounded_mul(double a, double b, Rounding mode) {
  const Inputs<double> in{a, b, 0};
  return with_rounding<double>(mode, [&] { return in.a * in.b; });
}
float rounded_div(float a, float b, Rounding mode) {
  const Inputs<float> in{a, b, 0};
  return with_rounding<float>(mode, [&] { return in.a / in.b; });
}
double rounded_div(double a, double b, Rounding mode) {
  const Inputs<double> in{a, b, 0};
  return with_rounding<double>(mode, [&] { return in.a / in.b; });
}
float rounded_fma(float a, float b, float c, Rounding mode) {
  const Inputs<float> in{a, b, c};
  return with_rounding<float>(mode, [&] { return std::fma(in.a, in.b, in.c); });
}
double rounded_fma(double a, double b, double c, Rounding mode) {
  const Inputs<double> in{a, b, c};
  return with_rounding<double>(mode, [&] { return std::fma(in.a, in.b, in.c); });
}
float rounded_sqrt(float value, Rounding mode) {
  const Inputs<float> in{value, 0, 0};
  return with_rounding<float>(mode, [&] { return std::sqrt(in.a); });
}
double rounded_sqrt(double value, Rounding mode) {
  const Inputs<double> in{value, 0, 0};
  return with_rounding<double>(mode, [&] { return std::sqrt(in.a); });
}
template <>
float round_to<float>(long double value, Rounding mode) {
  const volatile long double in = value;
  return with_rounding<float>(mode, [&] { return static_cast<float>(in); });
}
template <>
double round_to<double>(long double value, Rounding mode) {
  const volatile long double in = value;
  return with_rounding<double>(mode, [&] { return static_cast<double>(in); });
}

double round_to_odd(long double value) {
  const double cut = round_to<double>(value, Rounding::kZero);
  return static_cast<long double>(cut) == value ? cut : double_of(bits_of(cut) | 1);
}

// tf32 keeps 10 of the 23 fraction bits.
uint32_t round_to_tf32(uint32_t bits, Rounding mode) {
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits & 0x007fffffu ? 0x7fffffffu : bits;
  const uint32_t half = mode == Rounding::kNearestAway ? 0x1000u : 0x0fffu + (bits >> 13 & 1);
  return (bits + half) & ~0x1fffu;
}

float widen_f16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits} >> 15 << 31, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

uint16_t narrow_bits(double value, int exponent_bits, int fraction_bits, Rounding mode) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7fff;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << fraction_bits);
  double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return sign | infinity;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  int exponent = magnitude == 0 ? 1 - bias : std::ilogb(magnitude);
  if (exponent < 1 - bias) exponent = 1 - bias;
  // In units of the last place the value is rounded to an integer, which carries into the exponent by itself.
  const double units = std::ldexp(magnitude, fraction_bits - exponent);
  const double rounded = mode == Rounding::kZero ? std::trunc(units) : std::nearbyint(units);
  const uint64_t base = static_cast<uint64_t>(exponent + bias - 1) << fraction_bits;
  const uint64_t bits = base + static_cast<uint64_t>(rounded);
  if (bits >= infinity) return sign | (mode == Rounding::kZero ? infinity - 1 : infinity);
  return static_cast<uint16_t>(sign | bits);
}

}  // namespace cuda_emulation
