// Hashes of text for tables in memory; never written to a file.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace itemloom {

uint64_t hash64(std::string_view text);

using Hash128 = std::array<uint64_t, 2>;
Hash128 hash128(std::string_view text);

// A set of 128-bit hashes with open addressing: 16 bytes an entry, at least half of the places free.
class HashSet {
 public:
  // False when it was there already.
  bool insert(Hash128 hash);
  int64_t size() const { return size_; }

 private:
  void grow();
  std::vector<Hash128> slots_;  // {0, 0} is a free place; a hash of {0, 0} is kept as {0, 1}
  int64_t size_ = 0;
};

}  // namespace itemloom
