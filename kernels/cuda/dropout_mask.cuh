// core/rng.h's dropout masks of rows: one Philox block decides on eight columns.
#pragma once

#include <cstdint>

#include "core/rng.h"
#include "core/view.h"

namespace itemloom::cuda {

inline constexpr int64_t kMaskColumns = 8;

struct KeptFour {
  bool at[4];
};

class DropoutMask {
 public:
  DropoutMask(Vector<const uint32_t> row_ids, float probability, const DropoutKey& key)
      : row_ids_(row_ids.data()), key_(key), threshold_(dropout_threshold(probability)) {}

  // Whether anything is drawn.
  __host__ __device__ bool drops() const { return threshold_ > 0; }

  // For columns [8 chunk, 8 chunk + 8) of a row.
  __device__ PhiloxBlock draw(int64_t row, int64_t chunk) const {
    return philox({static_cast<uint32_t>(chunk), key_.stream, row_ids_[row], key_.step()},
                  static_cast<uint32_t>(key_.seed), static_cast<uint32_t>(key_.seed >> 32));
  }
  // The first four of them, or the last.
  __device__ KeptFour kept(const PhiloxBlock& words, bool last) const {
    const uint32_t low = last ? words[2] : words[0], high = last ? words[3] : words[1];
    return {{(low & 0xFFFF) >= threshold_, low >> 16 >= threshold_, (high & 0xFFFF) >= threshold_,
             high >> 16 >= threshold_}};
  }
  // Bit i: whether column 8 chunk + i is kept.
  __device__ uint8_t kept_bits(int64_t row, int64_t chunk) const {
    const PhiloxBlock words = draw(row, chunk);
    uint32_t bits = 0;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      bits |= uint32_t{(words[word] & 0xFFFF) >= threshold_} << (2 * word);
      bits |= uint32_t{words[word] >> 16 >= threshold_} << (2 * word + 1);
    }
    return static_cast<uint8_t>(bits);
  }

 private:
  const uint32_t* row_ids_;
  DropoutKey key_;
  uint32_t threshold_;
};

}  // namespace itemloom::cuda
