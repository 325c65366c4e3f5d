#include "data/vocabulary.h"

#include <algorithm>

#include "core/check.h"
#include "core/edit_distance.h"
#include "data/hashing.h"
#include "data/text.h"

namespace itemloom {

Vocabulary::Vocabulary(const StringTable& ids) {
  for (int64_t i = 0; i < ids.size(); ++i) {
    CHECK(add(ids[i]) == i, "the id ", in_quotes(ids[i]), " comes twice");
  }
}

size_t Vocabulary::slot_of(std::string_view id, uint64_t hash) const {
  const size_t last = slots_.size() - 1;
  const auto short_hash = static_cast<uint32_t>(hash >> 32);
  size_t slot = hash & last;
  while (slots_[slot].index >= 0 && !(slots_[slot].hash == short_hash && ids_[slots_[slot].index] == id)) {
    slot = (slot + 1) & last;
  }
  return slot;
}

int32_t Vocabulary::add(std::string_view id) {
  if (2 * static_cast<size_t>(ids_.size() + 1) > slots_.size()) grow();
  const uint64_t hash = hash64(id);
  Slot& slot = slots_[slot_of(id, hash)];
  if (slot.index < 0) {
    CHECK(ids_.size() < INT32_MAX - 1, "more than 2,147,483,646 different ids");
    slot = {static_cast<uint32_t>(hash >> 32), static_cast<int32_t>(ids_.size())};
    ids_.add(id);
  }
  return slot.index;
}

int32_t Vocabulary::find(std::string_view id) const {
  return slots_.empty() ? -1 : slots_[slot_of(id, hash64(id))].index;
}

void Vocabulary::grow() {
  slots_.assign(std::max<size_t>(64, 2 * slots_.size()), Slot{});
  for (int32_t index = 0; index < size(); ++index) {
    const uint64_t hash = hash64(ids_[index]);
    slots_[slot_of(ids_[index], hash)] = {static_cast<uint32_t>(hash >> 32), index};
  }
}

Vocabulary Vocabulary::renumbered(const std::vector<int32_t>& numbers) const {
  Vocabulary kept;
  for (int32_t index = 0; index < size(); ++index) {
    if (numbers[index] >= 0) kept.add(ids_[index]);
  }
  return kept;
}

std::vector<std::string> Vocabulary::nearest(std::string_view id, int64_t count) const {
  // Up to a third of the letters may be wrong; an id that contains the text counts as two errors away, one that begins
  // with it as one.
  const int64_t limit = std::max<int64_t>(2, static_cast<int64_t>(id.size()) / 3);
  std::vector<std::pair<int64_t, int32_t>> candidates;
  for (int32_t index = 0; index < size(); ++index) {
    const std::string_view other = ids_[index];
    int64_t distance = edit_distance(id, other, limit);
    if (id.size() >= 2 && other.starts_with(id)) distance = std::min<int64_t>(distance, 1);
    if (id.size() >= 2 && other.find(id) != std::string_view::npos) distance = std::min<int64_t>(distance, 2);
    if (distance <= limit && distance < static_cast<int64_t>(std::max(id.size(), other.size()))) {
      candidates.emplace_back(distance, index);
    }
  }
  count = std::min(count, static_cast<int64_t>(candidates.size()));
  std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end());
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.emplace_back(ids_[candidates[i].second]);
  return names;
}

std::string suggestion(const Vocabulary& vocabulary, std::string_view id) {
  std::string text;
  for (const std::string& name : vocabulary.nearest(id, 5))
    text += (text.empty() ? " Nearest: " : ", ") + in_quotes(name);
  return text.empty() ? text : text + ".";
}

}  // namespace itemloom
