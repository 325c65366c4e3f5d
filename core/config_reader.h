// Reads configurations: files that may extend others, and settings from the command line over them.
//
// - A file holds one JSON object. "extends" at its top names another file, which is read first; "$schema" at its top is
//   left to editors.
// - Later layers win: objects are merged key by key, lists and plain values are replaced whole, and null takes a value
//   back to its default.
// - A setting is KEY=VALUE with the key's path, "model.heads=2". VALUE is JSON; what is no JSON is a string, and so is
// a
//   number where a string is wanted.
// - Relative paths start at the folder of the file that holds them, in settings at the current folder.
// - Every layer's keys and values are checked, also those which a later layer replaces. Then a key that has no effect
//   under the other values is refused.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/config_outline.h"
#include "core/json_tree.h"

namespace itemloom {

// The layers of a configuration, lowest first.
class ConfigLayers {
 public:
  // Adds what the file extends, and the file.
  void add_file(const std::string& path);
  void add_setting(const std::string& key_and_value);

  const std::vector<JsonNode>& layers() const { return layers_; }

 private:
  std::vector<JsonNode> layers_;
};

// What the functions below do with an outline, one after the other; read_config does them all.
// Throws Error at the first key that is unknown and the first value that a key cannot have.
void check_layers(const ConfigOutline& outline, const std::vector<JsonNode>& layers);
JsonNode merge_layers(const std::vector<JsonNode>& layers);
void assign_values(ConfigOutline& outline, const JsonNode& given);
// Throws Error at the first key in `given` that is not active in the outline (made after the values were assigned).
void check_dead_keys(const ConfigOutline& outline, const JsonNode& given);

// Fills `values`, which holds the defaults, and returns what was given.
template <class Struct>
JsonNode read_config(const ConfigLayers& layers, Struct& values) {
  ConfigOutline outline = outline_of(values);
  check_layers(outline, layers.layers());
  JsonNode given = merge_layers(layers.layers());
  assign_values(outline, given);
  check_dead_keys(outline_of(values), given);
  return given;
}

// All active values, in the order of the outline. Read as a config it gives the same values.
nlohmann::ordered_json dump_config(const ConfigOutline& outline);
// Of the same shape, for each value where it comes from: "default", the file's path, or "--set".
nlohmann::ordered_json dump_origins(const ConfigOutline& outline, const JsonNode& given);

}  // namespace itemloom
