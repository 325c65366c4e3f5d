// PTX integer instructions that C++ operators do not express: wrap-around, saturation, shifts beyond the width, bytes.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace cuda_emulation {

template <class To, class From>
To saturate(From value) {
  using Limits = std::numeric_limits<To>;
  const __int128 wide = value;
  if (wide < static_cast<__int128>(Limits::min())) return Limits::min();
  if (wide > static_cast<__int128>(Limits::max())) return Limits::max();
  return static_cast<To>(value);
}

// 16-bit operands would be promoted to int, whose overflow is undefined.
template <class T>
T multiply_low(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

template <class T>
T add_carry(T a, T b, bool carry_in, bool write_carry, bool& carry) {
  const unsigned __int128 sum = static_cast<unsigned __int128>(a) + b + (carry_in ? 1 : 0);
  if (write_carry) carry = (sum >> (8 * sizeof(T))) & 1;
  return static_cast<T>(sum);
}

template <class T>
T subtract_borrow(T a, T b, bool borrow_in, bool write_borrow, bool& borrow) {
  const unsigned __int128 difference = static_cast<unsigned __int128>(a) - b - (borrow_in ? 1 : 0);
  if (write_borrow) borrow = (difference >> (8 * sizeof(T))) & 1;
  return static_cast<T>(difference);
}

inline int64_t low_24_bits(uint32_t value) {
  return value & 0xffffffu;
}
inline int64_t low_24_bits(int32_t value) {
  return static_cast<int32_t>(static_cast<uint32_t>(value) << 8) >> 8;
}

template <class T>
std::make_unsigned_t<T> absolute_difference(T a, T b) {
  using Unsigned = std::make_unsigned_t<T>;
  return a < b ? static_cast<Unsigned>(static_cast<Unsigned>(b) - static_cast<Unsigned>(a))
               : static_cast<Unsigned>(static_cast<Unsigned>(a) - static_cast<Unsigned>(b));
}

template <class T>
T integer_absolute(T value) {
  using Unsigned = std::make_unsigned_t<T>;
  return value < 0 ? static_cast<T>(Unsigned{0} - static_cast<Unsigned>(value)) : value;
}

// The device divides by zero without a trap; the quotient is all ones, the remainder the dividend.
template <class T>
T integer_quotient(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) {
    return static_cast<T>(std::make_unsigned_t<T>{0} - static_cast<std::make_unsigned_t<T>>(a));
  }
  return static_cast<T>(a / b);
}

template <class T>
T integer_remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <class T>
T shift_left(T value, uint32_t amount) {
  return amount >= 8 * sizeof(T) ? T{0} : static_cast<T>(static_cast<std::make_unsigned_t<T>>(value) << amount);
}

template <class T>
T shift_right(T value, uint32_t amount) {
  if (amount >= 8 * sizeof(T)) return std::is_signed_v<T> && value < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(value >> amount);
}

inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t amount, bool wrap) {
  amount = wrap ? amount & 31 : (amount > 32 ? 32 : amount);
  const uint64_t both = uint64_t{high} << 32 | low;
  return static_cast<uint32_t>(both << amount >> 32);
}

inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t amount, bool wrap) {
  amount = wrap ? amount & 31 : (amount > 32 ? 32 : amount);
  const uint64_t both = uint64_t{high} << 32 | low;
  return static_cast<uint32_t>(both >> amount);
}

template <class T>
T bit_reverse(T value) {
  T result = 0;
  for (unsigned bit = 0; bit < 8 * sizeof(T); ++bit) {
    result = static_cast<T>(result << 1 | (value & 1));
    value = static_cast<T>(value >> 1);
  }
  return result;
}

template <class T>
uint32_t find_leading_bit(T value, bool as_shift) {
  using Unsigned = std::make_unsigned_t<T>;
  Unsigned bits = static_cast<Unsigned>(value);
  if (std::is_signed_v<T> && value < 0) bits = static_cast<Unsigned>(~bits);
  if (bits == 0) return 0xffffffffu;
  const uint32_t zeros = static_cast<uint32_t>(std::countl_zero(bits));
  return as_shift ? zeros : static_cast<uint32_t>(8 * sizeof(T)) - 1 - zeros;
}

template <class T>
T extract_bits(T value, uint32_t position, uint32_t length) {
  using Unsigned = std::make_unsigned_t<T>;
  constexpr uint32_t kWidth = 8 * sizeof(T);
  position &= 255;
  length &= 255;
  if (length == 0) return 0;
  // The sign is the field's highest bit, or the value's where the field reaches beyond it.
  const uint32_t sign_bit = position + length - 1 < kWidth - 1 ? position + length - 1 : kWidth - 1;
  const bool negative = std::is_signed_v<T> && (static_cast<Unsigned>(value) >> sign_bit & 1);
  Unsigned field = position >= kWidth ? Unsigned{0} : static_cast<Unsigned>(static_cast<Unsigned>(value) >> position);
  const uint32_t present = position >= kWidth ? 0 : (length < kWidth - position ? length : kWidth - position);
  if (present < kWidth) {
    const Unsigned ones = static_cast<Unsigned>((Unsigned{1} << present) - 1);
    field = static_cast<Unsigned>(negative ? field | static_cast<Unsigned>(~ones) : field & ones);
  }
  return static_cast<T>(field);
}

template <class T>
T insert_bits(T field, T into, uint32_t position, uint32_t length) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  position &= 255;
  length &= 255;
  if (position >= kWidth || length == 0) return into;
  T ones = length >= kWidth ? static_cast<T>(-1) : static_cast<T>((T{1} << length) - 1);
  ones = static_cast<T>(ones << position);
  return static_cast<T>((into & ~ones) | (static_cast<T>(field << position) & ones));
}

inline uint32_t bit_mask(uint32_t position, uint32_t width, bool wrap) {
  if (wrap) {
    position &= 31;
    width &= 31;
  }
  if (position >= 32) return 0;
  const uint32_t ones = width >= 32 ? 0xffffffffu : (1u << width) - 1;
  return ones << position;
}

// The low `width` bits, extended by their sign (or with zeros).
template <class T>
T extend_bits(T value, uint32_t width, bool wrap) {
  if (wrap) width &= 31;
  if (width >= 32) return value;
  if (width == 0) return 0;
  const uint32_t bits = static_cast<uint32_t>(value) << (32 - width);
  return std::is_signed_v<T> ? static_cast<T>(static_cast<int32_t>(bits) >> (32 - width))
                             : static_cast<T>(bits >> (32 - width));
}

template <class A, class B>
uint32_t dot_product_of_bytes(A a, B b, uint32_t sum) {
  using ByteA = std::conditional_t<std::is_signed_v<A>, int8_t, uint8_t>;
  using ByteB = std::conditional_t<std::is_signed_v<B>, int8_t, uint8_t>;
  for (int byte = 0; byte < 4; ++byte) {
    const int product = static_cast<ByteA>(a >> 8 * byte) * static_cast<ByteB>(b >> 8 * byte);
    sum += static_cast<uint32_t>(product);
  }
  return sum;
}

// Bit k of the table says whether the result is set where the inputs' bits, read as a number abc, are k.
template <unsigned kTable>
uint32_t three_input_logic(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (unsigned k = 0; k < 8; ++k) {
    if (kTable >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  }
  return result;
}

inline uint32_t byte_of(uint64_t bytes, uint32_t index) {
  return static_cast<uint32_t>(bytes >> (8 * (index & 7))) & 255;
}

inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t choice = selector >> 4 * k & 15;
    uint32_t byte = byte_of(bytes, choice);
    if (choice & 8) byte = byte & 128 ? 255 : 0;  // the sign of the byte, repeated
    result |= byte << 8 * k;
  }
  return result;
}

// The named modes of prmt take byte k of the result from position(selector, k) of the eight bytes.
template <class Position>
uint32_t permute_by(uint32_t a, uint32_t b, Position position) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (uint32_t k = 0; k < 4; ++k) result |= byte_of(bytes, position(k)) << 8 * k;
  return result;
}
inline uint32_t permute_bytes_f4e(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_by(a, b, [=](uint32_t k) { return (selector & 3) + k; });
}
inline uint32_t permute_bytes_b4e(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_by(a, b, [=](uint32_t k) { return (selector & 3) + 8 - k; });
}
inline uint32_t permute_bytes_rc8(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_by(a, b, [=](uint32_t) { return selector & 3; });
}
inline uint32_t permute_bytes_ecl(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_by(a, b, [=](uint32_t k) { return k > (selector & 3) ? k : selector & 3; });
}
inline uint32_t permute_bytes_ecr(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_by(a, b, [=](uint32_t k) { return k < (selector & 3) ? k : selector & 3; });
}
inline uint32_t permute_bytes_rc16(uint32_t a, uint32_t b, uint32_t selector) {
  return permute_by(a, b, [=](uint32_t k) { return (selector & 1) * 2 + (k & 1); });
}

}  // namespace cuda_emulation
