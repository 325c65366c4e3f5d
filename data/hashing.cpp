#include "data/hashing.h"

#include <algorithm>
#include <cstring>

namespace itemloom {
namespace {

// Odd and irregular.
constexpr uint64_t kFirst = 0x9E3779B97F4A7C15, kSecond = 0xD6E8FEB86659FD93, kThird = 0xA0761D6478BD642F;

uint64_t multiply_and_fold(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Eight bytes at a time.
uint64_t hash_with(std::string_view text, uint64_t start, uint64_t factor) {
  uint64_t hash = start ^ text.size();
  uint64_t word = 0;
  size_t i = 0;
  for (; i + sizeof(word) <= text.size(); i += sizeof(word)) {
    std::memcpy(&word, text.data() + i, sizeof(word));
    hash = multiply_and_fold(hash ^ word, factor);
  }
  word = 0;
  if (i < text.size()) std::memcpy(&word, text.data() + i, text.size() - i);
  return multiply_and_fold(hash ^ word, start);
}

}  // namespace

uint64_t hash64(std::string_view text) {
  return hash_with(text, kFirst, kSecond);
}

Hash128 hash128(std::string_view text) {
  return {hash_with(text, kFirst, kSecond), hash_with(text, kThird, kFirst)};
}

bool HashSet::insert(Hash128 hash) {
  if (2 * static_cast<size_t>(size_ + 1) > slots_.size()) grow();
  if (hash == Hash128{}) hash[1] = 1;
  const size_t last = slots_.size() - 1;
  for (size_t slot = hash[0] & last;; slot = (slot + 1) & last) {
    if (slots_[slot] == hash) return false;
    if (slots_[slot] == Hash128{}) {
      slots_[slot] = hash;
      ++size_;
      return true;
    }
  }
}

void HashSet::grow() {
  std::vector<Hash128> old(std::max<size_t>(64, 2 * slots_.size()));
  old.swap(slots_);
  size_ = 0;
  for (const Hash128& hash : old) {
    if (hash != Hash128{}) insert(hash);
  }
}

}  // namespace itemloom
