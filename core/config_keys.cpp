#include "core/config_keys.h"

#include <algorithm>
#include <cctype>

#include "core/edit_distance.h"

namespace itemloom {
namespace {

// batchSize, batch-size and Batch_Size are near to batch_size.
std::string normalised(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isupper(byte) && !out.empty() && std::islower(static_cast<unsigned char>(out.back()))) out += '_';
    out += c == '-' || c == ' ' ? '_' : static_cast<char>(std::tolower(byte));
  }
  return out;
}

// Texts further apart than this are not meant for each other.
int64_t tolerance(std::string_view text) {
  return std::min<int64_t>(3, std::max<int64_t>(1, std::ssize(text) / 3));
}

constexpr size_t kMaxTextCompared = 64;

struct Key {
  std::string group_path, name;
};

std::string joined(const std::string& group_path, const std::string& name) {
  return group_path.empty() ? name : group_path + "." + name;
}

void collect_keys(const ConfigOutline& outline, const std::string& path, std::vector<Key>& keys) {
  for (const ConfigEntry& entry : outline) {
    keys.push_back({path, entry.key});
    if (const auto* group = std::get_if<ConfigGroup>(&entry.value))
      collect_keys(group->entries, joined(path, entry.key), keys);
  }
}

}  // namespace

int64_t nearest_text(std::string_view text, const std::vector<std::string>& candidates) {
  if (text.size() > kMaxTextCompared) return -1;
  int64_t best = -1, best_distance = tolerance(text) + 1;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const int64_t distance = edit_distance(normalised(text), normalised(candidates[i]), best_distance);
    if (distance < best_distance) {
      best = static_cast<int64_t>(i);
      best_distance = distance;
    }
  }
  return best;
}

std::string advice_on_unknown_key(const ConfigOutline& root, const ConfigOutline& group, const std::string& group_path,
                                  const std::string& key) {
  std::vector<Key> keys;
  collect_keys(root, "", keys);
  // A list's elements are no part of the tree of keys.
  for (const ConfigEntry& entry : group)
    if (group_path.find('[') != std::string::npos) keys.push_back({group_path, entry.key});

  if (const size_t dot = key.find('.'); dot != std::string::npos)
    return "each dot is an object of its own, {\"" + key.substr(0, dot) + "\": {\"" + key.substr(dot + 1) + "\": ...}}";

  std::vector<std::string> meant;
  int64_t best = tolerance(key) + 1;
  for (const Key& candidate : keys) {
    if (key.size() > kMaxTextCompared) break;
    const int64_t distance = edit_distance(normalised(key), normalised(candidate.name), best);
    if (distance > tolerance(key)) continue;
    // A key nearby needs to be less alike than a key elsewhere.
    const int64_t score = distance + (candidate.group_path == group_path ? 0 : 1);
    if (score > best) continue;
    if (score < best) meant.clear();
    best = score;
    meant.push_back(joined(candidate.group_path, candidate.name));
  }
  std::string advice;
  if (!meant.empty() && meant.size() <= 3) {
    for (const std::string& name : meant) advice += (advice.empty() ? "" : " or ") + name;
    return "did you mean " + advice + "?";
  }
  for (const ConfigEntry& entry : group) advice += (advice.empty() ? "" : ", ") + entry.key;
  return (group_path.empty() ? "the keys here are " : "the keys of " + group_path + " are ") + advice;
}

}  // namespace itemloom
