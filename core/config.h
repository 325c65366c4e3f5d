// Configuration as one typed struct tree.
//
// Every options struct lists its fields once, in describe(), and that list drives reading JSON, dumping it, the JSON
// schema, and the refusal of unknown keys (with "did you mean") and of dead keys (keys that are given but have no
// effect under the other values):
//
//   struct MaskingConfig {
//     double probability = 0.2;
//     std::string replacement = "mask";
//     template <class Visitor>
//     void describe(Visitor& visit) {
//       visit.field("probability", probability, {.help = "Share of items masked.", .above = 0.0, .maximum = 1.0});
//       visit.field("replacement", replacement, {.help = "...", .choices = {"mask", "bert"}});
//     }
//   };
//
// Field types: bool, int64_t, double, std::string, std::vector<int64_t|double|std::string>; visit.group(key, struct,
// {.help = ...}) nests another described struct, visit.list(key, std::vector<struct>, {.help = ...}) a list of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace itemloom {

struct FieldOptions {
  std::string help;
  std::optional<double> minimum = {};     // numbers: inclusive
  std::optional<double> above = {};       // numbers: exclusive
  std::optional<double> maximum = {};     // numbers: inclusive
  std::optional<double> below = {};       // numbers: exclusive
  std::vector<std::string> choices = {};  // strings, and each string of a list: the values allowed
  bool active = true;                     // false: the key has no effect now, and giving it is an error ...
  std::string active_when = {};           // ... which says when it has: "data.format is csv"
  bool is_path = false;                   // strings: a relative path starts at the folder of the config file
};

}  // namespace itemloom
