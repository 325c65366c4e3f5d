#include "core/json_schema.h"

#include <nlohmann/json.hpp>
#include <type_traits>

namespace itemloom {
namespace {

using Json = nlohmann::ordered_json;

std::string description_of(const FieldOptions& options) {
  return options.active_when.empty() ? options.help : options.help + " Only when " + options.active_when + ".";
}

template <class Number>
void add_range(Json& schema, const FieldOptions& options) {
  const auto add = [&](const char* key, const std::optional<double>& bound) {
    if (bound) schema[key] = static_cast<Number>(*bound);
  };
  add("minimum", options.minimum);
  add("exclusiveMinimum", options.above);
  add("maximum", options.maximum);
  add("exclusiveMaximum", options.below);
}

template <class Value>
Json schema_of_value(const FieldOptions& options) {
  Json schema;
  if constexpr (std::is_same_v<Value, bool>) {
    schema["type"] = "boolean";
  } else if constexpr (std::is_same_v<Value, std::string>) {
    schema["type"] = "string";
    if (!options.choices.empty()) schema["enum"] = options.choices;
  } else if constexpr (std::is_arithmetic_v<Value>) {
    schema["type"] = std::is_same_v<Value, int64_t> ? "integer" : "number";
    add_range<Value>(schema, options);
  } else {
    schema["type"] = "array";
    schema["items"] = schema_of_value<typename Value::value_type>(options);
  }
  return schema;
}

Json schema_of_members(const ConfigOutline& outline);

Json schema_of(const ConfigEntry& entry) {
  Json schema;
  if (const auto* group = std::get_if<ConfigGroup>(&entry.value)) {
    schema = schema_of_members(group->entries);
  } else if (const auto* list = std::get_if<ConfigList>(&entry.value)) {
    schema["type"] = "array";
    schema["items"] = schema_of_members(list->prototype);
    schema["default"] = Json::array();
  } else {
    std::visit(
        [&](auto target) {
          if constexpr (std::is_pointer_v<decltype(target)>) {
            schema = schema_of_value<std::remove_pointer_t<decltype(target)>>(entry.options);
            schema["default"] = *target;
          }
        },
        entry.value);
  }
  // null takes a value back to its default.
  schema["type"] = Json::array({schema["type"], "null"});
  if (schema.contains("enum")) schema["enum"].push_back(nullptr);
  schema["description"] = description_of(entry.options);
  return schema;
}

Json schema_of_members(const ConfigOutline& outline) {
  Json schema;
  schema["type"] = "object";
  schema["additionalProperties"] = false;
  schema["properties"] = Json::object();
  for (const ConfigEntry& entry : outline) schema["properties"][entry.key] = schema_of(entry);
  return schema;
}

}  // namespace

Json json_schema(const ConfigOutline& outline, const std::string& title) {
  Json schema;
  schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  schema["title"] = title;
  schema.update(schema_of_members(outline));
  schema["properties"]["$schema"] = {{"type", "string"}, {"description", "Where editors find this schema."}};
  schema["properties"]["extends"] = {
      {"type", "string"},
      {"description", "Another config, which is read first; a relative path starts at this file's folder."}};
  return schema;
}

}  // namespace itemloom
