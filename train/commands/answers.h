// How the verbs that answer print: tables for people, one JSON object for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "data/dataset.h"

namespace itemloom {

// {"id", "title" where known}
nlohmann::ordered_json item_json(const Dataset& dataset, int32_t item);

// "85123A  WHITE HANGING HEART T-LIGHT HOLDER", the id padded to a column.
std::string item_text(const Dataset& dataset, int32_t item);

// The object on standard output, and nothing else.
void print_json(const nlohmann::ordered_json& answer);

}  // namespace itemloom
