// A permutation that is computed place by place and never stored: a Feistel network over as many bits as the size has,
// walked along until it is back inside (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002,
// section 3.2), with Philox for its rounds.
#pragma once

#include <bit>
#include <cstdint>

#include "core/rng.h"

namespace itemloom {

class Permutation {
 public:
  // Of 0 .. size - 1, size at least 1; `key` and `number` choose it.
  constexpr Permutation(int64_t size, uint64_t key, uint32_t number)
      : size_(static_cast<uint64_t>(size)),
        low_bits_(bits_of(size_) / 2),
        high_bits_(bits_of(size_) - low_bits_),
        key_(key),
        number_(number) {}

  // For a place from 0 to size - 1. Two walks on average at most, unless the size is small: the bits name fewer than
  // twice as many places as there are.
  constexpr int64_t operator[](int64_t place) const {
    uint64_t value = static_cast<uint64_t>(place);
    do {
      uint64_t high = value >> low_bits_, low = value & mask(low_bits_);
      for (uint32_t round = 0; round < kRounds; round += 2) {
        high ^= draw(round, low) & mask(high_bits_);
        low ^= draw(round + 1, high) & mask(low_bits_);
      }
      value = high << low_bits_ | low;
    } while (value >= size_);
    return static_cast<int64_t>(value);
  }

 private:
  // Four make a good cipher of long halves (Luby and Rackoff 1988); short ones want more.
  static constexpr uint32_t kRounds = 8;

  // Over few bits the network's own permutations are few and uneven (of five values some come 4 % too often).
  static constexpr int kFewestBits = 8;

  static constexpr int bits_of(uint64_t size) {
    const int bits = static_cast<int>(std::bit_width(size - 1));
    return bits < kFewestBits ? kFewestBits : bits;
  }
  static constexpr uint64_t mask(int bits) { return (uint64_t{1} << bits) - 1; }
  constexpr uint64_t draw(uint32_t round, uint64_t half) const {
    return philox({static_cast<uint32_t>(half), round, number_, 0}, static_cast<uint32_t>(key_),
                  static_cast<uint32_t>(key_ >> 32))[0];
  }

  uint64_t size_;
  int low_bits_, high_bits_;
  uint64_t key_;
  uint32_t number_;
};

}  // namespace itemloom
