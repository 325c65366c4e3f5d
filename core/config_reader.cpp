#include "core/config_reader.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <type_traits>

#include "core/check.h"
#include "core/config_keys.h"

namespace itemloom {
namespace {

namespace fs = std::filesystem;

std::string joined(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::string element_path(const std::string& path, size_t index) {
  return join_message(path, "[", index, "]");
}

// What stands in the way of a value, after the name of its key: "must be true or false, not 3". Empty: nothing.
using Problem = std::string;

template <class Number>
Problem range_problem(Number value, const FieldOptions& options) {
  const auto number = static_cast<double>(value);
  const bool fits = number >= options.minimum.value_or(number) && number <= options.maximum.value_or(number) &&
                    !(options.above && number <= *options.above) && !(options.below && number >= *options.below);
  if (fits) return {};
  std::string low, high;
  if (options.minimum) low = join_message("at least ", *options.minimum);
  if (options.above) low = join_message("above ", *options.above);
  if (options.maximum) high = join_message("at most ", *options.maximum);
  if (options.below) high = join_message("below ", *options.below);
  return join_message("is ", value, ", but must be ", low, low.empty() || high.empty() ? "" : " and ", high);
}

Problem choice_problem(const std::string& value, const std::vector<std::string>& choices) {
  if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end()) return {};
  const auto quote = [](const std::string& text) { return nlohmann::json(text).dump(); };
  if (choices.size() == 1) return "is " + quote(value) + ", but only " + quote(choices[0]) + " is there to choose";
  std::string list;
  for (size_t i = 0; i < choices.size(); ++i)
    list += (i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ") + quote(choices[i]);
  const int64_t nearest = nearest_text(value, choices);
  if (nearest >= 0) list += "; did you mean " + quote(choices[static_cast<size_t>(nearest)]) + "?";
  return "is " + quote(value) + ", but must be " + list;
}

Problem convert(const JsonNode& node, const FieldOptions&, bool& value) {
  if (!node.scalar.is_boolean()) return "must be true or false, not " + node.shown();
  value = node.scalar.get<bool>();
  return {};
}

Problem convert(const JsonNode& node, const FieldOptions& options, int64_t& value) {
  constexpr double kMaxExact = 9007199254740992.0;  // 2^53
  const nlohmann::json& scalar = node.scalar;
  const bool whole_float = scalar.is_number_float() && std::trunc(scalar.get<double>()) == scalar.get<double>() &&
                           std::abs(scalar.get<double>()) <= kMaxExact;  // 1e6
  const bool too_large = scalar.is_number_unsigned() && scalar.get<uint64_t>() > uint64_t{INT64_MAX};
  if (too_large) return "is " + node.shown() + ", but must be at most " + std::to_string(INT64_MAX);
  if (!scalar.is_number_integer() && !whole_float) return "must be a whole number, not " + node.shown();
  value = whole_float ? static_cast<int64_t>(scalar.get<double>()) : scalar.get<int64_t>();
  return range_problem(value, options);
}

Problem convert(const JsonNode& node, const FieldOptions& options, double& value) {
  if (!node.scalar.is_number()) return "must be a number, not " + node.shown();
  value = node.scalar.get<double>();
  return range_problem(value, options);
}

Problem convert(const JsonNode& node, const FieldOptions& options, std::string& value) {
  if (node.scalar.is_string())
    value = node.scalar.get<std::string>();
  else if (node.scalar.is_number() && !node.raw_text.empty())
    value = node.raw_text;
  else
    return "must be a string, not " + node.shown();
  if (value.find('\0') != std::string::npos) return "must not hold a NUL character";
  if (options.is_path && !value.empty() && fs::path(value).is_relative())
    value = (node.source->folder / value).lexically_normal().string();
  return choice_problem(value, options.choices);
}

template <class Element>
Problem convert(const JsonNode& node, const FieldOptions& options, std::vector<Element>& values) {
  constexpr const char* kExample =
      std::is_same_v<Element, std::string> ? "a list of strings like [\"a\", \"b\"]" : "a list of numbers like [1, 2]";
  if (node.kind != JsonNode::Kind::kArray) return join_message("must be ", kExample, ", not ", node.shown());
  values.assign(node.elements.size(), Element{});
  for (size_t i = 0; i < values.size(); ++i) {
    const Problem problem = convert(node.elements[i], options, values[i]);
    if (!problem.empty()) return join_message("entry ", i + 1, " ", problem);
  }
  return {};
}

void check_node(const ConfigOutline& root, const ConfigEntry& entry, const std::string& path, const JsonNode& node);

void check_members(const ConfigOutline& root, const ConfigOutline& outline, const std::string& path,
                   const JsonNode& object) {
  for (const auto& [key, node] : object.members) {
    const auto entry = std::find_if(outline.begin(), outline.end(), [&](const auto& each) { return each.key == key; });
    if (entry == outline.end()) {
      CHECK(key.find('[') == std::string::npos || node.source->has_lines, node.where(),
            ": a list can only be set whole");
      fail(node.where(), ": ", joined(path, key), " is no key; ", advice_on_unknown_key(root, outline, path, key));
    }
    if (!node.is_null()) check_node(root, *entry, joined(path, key), node);
  }
}

void check_list(const ConfigOutline& root, const ConfigList& list, const std::string& path, const JsonNode& node) {
  const bool inside = node.kind == JsonNode::Kind::kObject && !node.source->has_lines;
  CHECK(!inside, node.where(), ": ", path, " is a list and can only be set whole");
  CHECK(node.kind == JsonNode::Kind::kArray, node.where(), ": ", path, " must be a list of objects, not ",
        node.shown());
  for (size_t i = 0; i < node.elements.size(); ++i) {
    const JsonNode& element = node.elements[i];
    CHECK(element.kind == JsonNode::Kind::kObject, element.where(), ": ", element_path(path, i),
          " must be an object, not ", element.shown());
    check_members(root, list.prototype, element_path(path, i), element);
  }
}

void check_node(const ConfigOutline& root, const ConfigEntry& entry, const std::string& path, const JsonNode& node) {
  if (const auto* group = std::get_if<ConfigGroup>(&entry.value)) {
    CHECK(node.kind == JsonNode::Kind::kObject, node.where(), ": ", path, " must be an object, not ", node.shown());
    check_members(root, group->entries, path, node);
  } else if (const auto* list = std::get_if<ConfigList>(&entry.value)) {
    check_list(root, *list, path, node);
  } else {
    const Problem problem = std::visit(
        [&](auto target) -> Problem {
          if constexpr (std::is_pointer_v<decltype(target)>) {
            std::remove_pointer_t<decltype(target)> value{};
            return convert(node, entry.options, value);
          } else {
            return {};
          }
        },
        entry.value);
    CHECK(problem.empty(), node.where(), ": ", path, " ", problem);
  }
}

void merge_into(JsonNode& base, const JsonNode& over) {
  for (const auto& [key, node] : over.members) {
    JsonNode* before = base.find(key);
    if (!before)
      base.members.emplace_back(key, node);
    else if (before->kind == JsonNode::Kind::kObject && node.kind == JsonNode::Kind::kObject)
      merge_into(*before, node);
    else
      *before = node;
  }
}

// `outside` are the options of the outermost group that is not active, or null.
void check_dead(const ConfigOutline& outline, const std::string& path, const JsonNode& given,
                const FieldOptions* outside) {
  for (const ConfigEntry& entry : outline) {
    const JsonNode* node = given.find(entry.key);
    if (!node || node->is_null()) continue;
    const std::string here = joined(path, entry.key);
    const FieldOptions* dead = outside ? outside : entry.options.active ? nullptr : &entry.options;
    if (const auto* group = std::get_if<ConfigGroup>(&entry.value)) {
      check_dead(group->entries, here, *node, dead);
      continue;
    }
    CHECK(!dead, node->where(), ": ", here, " has no effect here, only when ", dead->active_when,
          "; remove it or set it to null");
    if (const auto* list = std::get_if<ConfigList>(&entry.value))
      for (size_t i = 0; i < list->elements.size(); ++i)
        check_dead(list->elements[i], element_path(here, i), node->elements[i], nullptr);
  }
}

// Adds the file `path`, which the files of `chain` (from the first on) extend, after what it extends itself.
void add_with_bases(const std::string& path, std::vector<std::string> chain, std::vector<JsonNode>& layers) {
  JsonNode root = read_json_object(path);
  chain.push_back(path);
  std::string base;
  if (const JsonNode* extends = root.find("extends")) {
    CHECK(extends->scalar.is_string(), extends->where(), ": extends must be the path of a config, not ",
          extends->shown());
    base = extends->scalar.get<std::string>();
    CHECK(!base.empty() && base.find('\0') == std::string::npos, extends->where(), ": extends is no path");
    base = (fs::path(path).parent_path() / base).lexically_normal().string();
    CHECK(fs::exists(base), extends->where(), ": extends ", base, ", which does not exist");
    for (const std::string& before : chain) {
      std::error_code error;
      if (!fs::equivalent(before, base, error)) continue;
      std::string circle;
      for (const std::string& each : chain) circle += each + " extends ";
      fail(extends->where(), ": configs extend each other in a circle: ", circle, base);
    }
  }
  if (!base.empty()) add_with_bases(base, std::move(chain), layers);
  std::erase_if(root.members, [](const auto& each) { return each.first == "extends" || each.first == "$schema"; });
  layers.push_back(std::move(root));
}

// A setting's value: JSON, or a plain string.
JsonNode parse_setting(const std::string& text, std::shared_ptr<const JsonSource> source) {
  if (nlohmann::json::accept(text)) {
    JsonNode node = parse_json(text, std::move(source));
    if (node.kind == JsonNode::Kind::kScalar) node.raw_text = text;
    return node;
  }
  JsonNode node;
  node.scalar = text;
  node.source = std::move(source);
  return node;
}

nlohmann::ordered_json dump_with_origins(const ConfigOutline& outline, const JsonNode* given, bool origins) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  for (const ConfigEntry& entry : outline) {
    if (!entry.options.active) continue;
    const JsonNode* node = given ? given->find(entry.key) : nullptr;
    if (node && node->is_null()) node = nullptr;
    nlohmann::ordered_json& value = out[entry.key];
    if (const auto* group = std::get_if<ConfigGroup>(&entry.value)) {
      value = dump_with_origins(group->entries, node, origins);
    } else if (origins) {
      value = node ? node->source->origin : "default";
    } else if (const auto* list = std::get_if<ConfigList>(&entry.value)) {
      value = nlohmann::ordered_json::array();
      for (const ConfigOutline& element : list->elements) value.push_back(dump_with_origins(element, nullptr, false));
    } else {
      std::visit(
          [&](auto target) {
            if constexpr (std::is_pointer_v<decltype(target)>) value = *target;
          },
          entry.value);
    }
  }
  return out;
}

}  // namespace

void ConfigLayers::add_file(const std::string& path) {
  add_with_bases(path, {}, layers_);
}

void ConfigLayers::add_setting(const std::string& key_and_value) {
  try {
    (void)nlohmann::json(key_and_value).dump();
  } catch (const nlohmann::json::type_error&) {
    fail("--set: a setting is not valid UTF-8");
  }
  auto source = std::make_shared<JsonSource>();
  source->name = "--set " + key_and_value;
  source->origin = "--set";
  source->folder = fs::current_path();
  source->has_lines = false;

  const size_t equals = key_and_value.find('=');
  CHECK(equals != std::string::npos && equals > 0, source->name, ": a setting is KEY=VALUE, like model.heads=2");
  const std::string key = key_and_value.substr(0, equals);
  CHECK(key != "extends" && key != "$schema", source->name, ": ", key, " can only stand in a config file");
  JsonNode node = parse_setting(key_and_value.substr(equals + 1), source);
  for (size_t end = key.size(); end != std::string::npos;) {
    const size_t dot = end == 0 ? std::string::npos : key.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    CHECK(begin < end, source->name, ": a key is names with dots between, like model.heads");
    JsonNode parent;
    parent.kind = JsonNode::Kind::kObject;
    parent.source = source;
    parent.members.emplace_back(key.substr(begin, end - begin), std::move(node));
    node = std::move(parent);
    end = dot;
  }
  layers_.push_back(std::move(node));
}

void check_layers(const ConfigOutline& outline, const std::vector<JsonNode>& layers) {
  for (const JsonNode& layer : layers) check_members(outline, outline, "", layer);
}

JsonNode merge_layers(const std::vector<JsonNode>& layers) {
  JsonNode merged;
  merged.kind = JsonNode::Kind::kObject;
  for (const JsonNode& layer : layers) merge_into(merged, layer);
  return merged;
}

void assign_values(ConfigOutline& outline, const JsonNode& given) {
  for (ConfigEntry& entry : outline) {
    const JsonNode* node = given.find(entry.key);
    if (!node || node->is_null()) continue;
    if (auto* group = std::get_if<ConfigGroup>(&entry.value)) {
      assign_values(group->entries, *node);
    } else if (auto* list = std::get_if<ConfigList>(&entry.value)) {
      list->elements = list->resize(node->elements.size());
      for (size_t i = 0; i < list->elements.size(); ++i) assign_values(list->elements[i], node->elements[i]);
    } else {
      std::visit(
          [&](auto target) {
            if constexpr (std::is_pointer_v<decltype(target)>) convert(*node, entry.options, *target);
          },
          entry.value);
    }
  }
}

void check_dead_keys(const ConfigOutline& outline, const JsonNode& given) {
  check_dead(outline, "", given, nullptr);
}

nlohmann::ordered_json dump_config(const ConfigOutline& outline) {
  return dump_with_origins(outline, nullptr, false);
}

nlohmann::ordered_json dump_origins(const ConfigOutline& outline, const JsonNode& given) {
  return dump_with_origins(outline, &given, true);
}

}  // namespace itemloom
