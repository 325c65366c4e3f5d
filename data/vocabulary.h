// Ids as they are written in the data, and their numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace itemloom {

// Texts one after the other in one piece of memory.
class StringTable {
 public:
  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  std::string_view operator[](int64_t index) const {
    const int64_t begin = index == 0 ? 0 : ends_[index - 1];
    return {bytes_.data() + begin, static_cast<size_t>(ends_[index] - begin)};
  }
  void add(std::string_view text) {
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    ends_.push_back(static_cast<int64_t>(bytes_.size()));
  }
  bool operator==(const StringTable&) const = default;

 private:
  std::vector<char> bytes_;
  std::vector<int64_t> ends_;
};

// Distinct ids numbered 0, 1, 2, ... in the order in which they were added. Open addressing over one arena of bytes: no
// allocation an id.
class Vocabulary {
 public:
  Vocabulary() = default;
  // The ids of a table in its order. Throws Error when one comes twice.
  explicit Vocabulary(const StringTable& ids);

  int32_t size() const { return static_cast<int32_t>(ids_.size()); }
  std::string_view operator[](int32_t index) const { return ids_[index]; }
  const StringTable& ids() const { return ids_; }

  // The number of `id`, a new one if it is new. Throws Error when there are more than 2^31 - 2 ids.
  int32_t add(std::string_view id);
  // The number of `id`, or -1.
  int32_t find(std::string_view id) const;

  // The ids with numbers[i] >= 0, numbered by it; the new numbers ascend with the old ones and have no gap.
  Vocabulary renumbered(const std::vector<int32_t>& numbers) const;

  // Up to `count` ids that are like `id`: those that begin with it or contain it, and those few typing errors away;
  // the nearest first, equally near ones in vocabulary order.
  std::vector<std::string> nearest(std::string_view id, int64_t count) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t index = -1;
  };

  // The slot that holds `id`, or the free one where it belongs.
  size_t slot_of(std::string_view id, uint64_t hash) const;
  void grow();

  StringTable ids_;
  std::vector<Slot> slots_;
};

// " Nearest: "a", "b"." or nothing: for messages about an id that is not there.
std::string suggestion(const Vocabulary& vocabulary, std::string_view id);

}  // namespace itemloom
