// What the data is like and what cleaning did to it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/filters.h"

namespace itemloom {

// What reading and cleaning counted.
struct PreparationCounts {
  int64_t rows = 0;      // read, blank lines apart
  int64_t bad_rows = 0;  // that could not be read
  std::vector<std::string> bad_rows_shown;
  std::vector<RuleReport> rules;
  int64_t ties = 0;  // interactions with the time of the one before them in their sequence
};

// {"rows", "bad_rows": {"count", "shown"}, "rules": [{"rule", "reason", "rows", k_core: "users", "items", "rounds"}],
//  "sequence_by", "sequences", "items", "interactions", "baskets", "density", "titles",
//  "lengths": {"mean", "minimum", "p10", "p25", "p50", "p75", "p90", "p99", "maximum"},
//  "times": {"unit", "first", "last", "ties", "tie_rule"}}. Quantiles are of the sorted lengths, the nearest rank.
nlohmann::ordered_json make_report(const Dataset& dataset, const PreparationCounts& counts);

// The same for people: several lines, each ended.
std::string report_text(const nlohmann::ordered_json& report);

}  // namespace itemloom
