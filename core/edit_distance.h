// How far two texts are apart, for "did you mean".
#pragma once

#include <cstdint>
#include <string_view>

namespace itemloom {

// The number of insertions, deletions, substitutions and swaps of neighbours that turn a into b (in bytes, optimal
// string alignment), or limit + 1 when it is more than limit.
int64_t edit_distance(std::string_view a, std::string_view b, int64_t limit);

}  // namespace itemloom
