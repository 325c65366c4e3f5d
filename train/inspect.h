// What a file of ours holds: datasets, checkpoints, exports and whatever else carries the header of core/hdf5.h.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace itemloom {

// {"path", "kind", "format_version", "bytes", "sealed",
//  "counts": {"items", "users", "interactions", "parameters"} as far as they apply,
//  "attributes": {"name": value, ...}                                of "/", without the header
//  "groups": {"/path": {"name": value, ...}}                         groups with attributes
//  "datasets": {"/path": {"type", "shape", "attributes", "first"}}}  the latter two where there are any
// and for checkpoints "content_sha256", "texts", "integers" and "numbers" beside "kind", in place of their groups.
// "first" holds the first few entries of a list. Texts that are JSON objects or arrays stand there as such, and numbers
// that JSON does not know (NaN, infinities) are null. Throws Error for a missing, foreign or damaged file.
nlohmann::json describe_file(const std::string& path);

// The description for a person: a few lines, then one line a dataset. Long texts are cut.
std::string description_text(const nlohmann::json& description);

}  // namespace itemloom
