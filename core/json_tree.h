// JSON text as a tree that remembers where each value stands, for messages that name file and line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace itemloom {

// Where text comes from.
struct JsonSource {
  std::string name;              // for messages: "configs/a.json", "--set model.heads=2"
  std::string origin;            // for the list of origins: the file, or "--set"
  std::filesystem::path folder;  // where relative paths in it start
  bool has_lines = true;
};

struct JsonNode {
  enum class Kind { kScalar, kObject, kArray };

  Kind kind = Kind::kScalar;
  nlohmann::json scalar;                                  // null unless a scalar
  std::vector<std::pair<std::string, JsonNode>> members;  // of an object, in the order given
  std::vector<JsonNode> elements;                         // of an array
  std::shared_ptr<const JsonSource> source;
  int64_t line = 0;      // of the value's key, or of the value where it has none
  std::string raw_text;  // of a scalar from the command line: what was typed

  bool is_null() const { return kind == Kind::kScalar && scalar.is_null(); }
  const JsonNode* find(std::string_view key) const;
  JsonNode* find(std::string_view key);
  // "configs/a.json:12", or the name alone where the source has no lines.
  std::string where() const;
  // "an object", "a list", "the string \"two\"", "1.5", ... for messages.
  std::string shown() const;
};

// Reads JSON as in RFC 8259. Throws Error with file and line when it is something else, nested deeper than 32, or names
// a key twice in one object.
JsonNode parse_json(std::string_view text, std::shared_ptr<const JsonSource> source);

// Reads a JSON file, whose name in messages is `path`. Throws Error when it cannot be read, is larger than 16 MiB, or
// is no JSON object.
JsonNode read_json_object(const std::string& path);

}  // namespace itemloom
