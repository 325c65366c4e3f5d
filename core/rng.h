// Randomness as a function: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3.3). No generator, permutation or mask is ever stored: the same bits come out on every device and for any
// number of threads or ranks, because every draw is named by what it is for. All of it is constexpr, which is what lets
// device code use it, too.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace itemloom {

using PhiloxBlock = std::array<uint32_t, 4>;

// Ten rounds over a 128-bit counter with a 64-bit key.
constexpr PhiloxBlock philox(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// A 64-bit mix for keys and names (the finaliser of SplitMix64).
constexpr uint64_t mix64(uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// FNV-1a, for parameter names and stream names.
constexpr uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325;
  for (unsigned char byte : name) hash = (hash ^ byte) * 0x100000001B3;
  return hash;
}

// A uniform float in [0, 1) from the upper 24 bits.
constexpr float uniform_from(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

// Which dropout mask: the run's seed, the optimizer step (micro-batches of one step share it, their rows differ), and
// the place in the model. Streams are handed out by the tape in forward order. Where `step_at` is given, the step
// stands there, in memory of the device that draws: a graph of kernels, which are told their arguments once, is
// launched in many steps.
struct DropoutKey {
  uint64_t seed;
  uint32_t told_step;
  uint32_t stream;
  const uint32_t* step_at = nullptr;

  constexpr uint32_t step() const { return step_at ? *step_at : told_step; }
};

// How a dropout mask is drawn; every backend reproduces it to the bit. Element `column` of a row with global row id
// `row_id` uses the 16-bit lane column % 8 of the Philox block with counter {column / 8, stream, row_id, step} and the
// seed as key; lane 2i is the low half of word i and lane 2i + 1 its high half. The element is dropped when lane <
// dropout_threshold(p), else scaled by dropout_scale(p). So the probability in force is p rounded to 1/65536.
constexpr uint32_t dropout_threshold(float probability) {
  return static_cast<uint32_t>(probability * 65536.0f + 0.5f);
}
constexpr float dropout_scale(float probability) {
  return 65536.0f / static_cast<float>(65536 - dropout_threshold(probability));
}
constexpr bool dropout_keeps(const DropoutKey& key, uint32_t row_id, uint32_t column, uint32_t threshold) {
  const PhiloxBlock block = philox({column / 8, key.stream, row_id, key.step()}, static_cast<uint32_t>(key.seed),
                                   static_cast<uint32_t>(key.seed >> 32));
  const uint32_t word = block[(column % 8) / 2];
  return (column % 2 ? word >> 16 : word & 0xFFFF) >= threshold;
}

}  // namespace itemloom
