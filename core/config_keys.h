// Names of keys for messages.
#pragma once

#include <string>
#include <string_view>

#include "core/config_outline.h"

namespace itemloom {

// The index of the text nearest to `text` among `candidates`, -1 when none is near enough to be meant.
int64_t nearest_text(std::string_view text, const std::vector<std::string>& candidates);

// What to say of an unknown `key` in the group at `group_path` ("" for the root): "did you mean training.batch_size?",
// looking at all keys of the root; else which keys the group has.
std::string advice_on_unknown_key(const ConfigOutline& root, const ConfigOutline& group, const std::string& group_path,
                                  const std::string& key);

}  // namespace itemloom
