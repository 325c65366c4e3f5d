// The JSON Schema (draft 2020-12) of a configuration, which lets editors complete, explain and check config files.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/config_outline.h"

namespace itemloom {

// `outline` holds the defaults.
nlohmann::ordered_json json_schema(const ConfigOutline& outline, const std::string& title);

}  // namespace itemloom
