#include "train/inspect.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>
#include <vector>

#include "core/check.h"
#include "core/hdf5.h"

namespace itemloom {
namespace {

using nlohmann::json;

constexpr int64_t kFirstEntries = 5;
constexpr size_t kTextWidth = 100;

json json_of(const AttributeValue& value) {
  return std::visit(
      []<class T>(const T& given) -> json {
        if constexpr (std::is_same_v<T, std::string>) {
          json parsed = json::parse(given, nullptr, false);
          if (parsed.is_structured()) return parsed;
        }
        if constexpr (std::is_same_v<T, double>) {
          if (!std::isfinite(given)) return nullptr;
        }
        return given;
      },
      value);
}

json attributes_of(const Hdf5Reader& file, const std::string& object) {
  json attributes = json::object();
  for (const auto& [name, value] : file.attributes(object)) attributes[name] = json_of(value);
  return attributes;
}

template <Number T>
json first_numbers(const Hdf5Reader& file, const std::string& dataset, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  file.read_rows(dataset, 0, count, values.data());
  return values;
}

json first_entries(const Hdf5Reader& file, const std::string& dataset, ElementType type, int64_t count) {
  switch (type) {
    case ElementType::kFloat32:
      return first_numbers<float>(file, dataset, count);
    case ElementType::kFloat64:
      return first_numbers<double>(file, dataset, count);
    case ElementType::kInt32:
      return first_numbers<int32_t>(file, dataset, count);
    case ElementType::kInt64:
      return first_numbers<int64_t>(file, dataset, count);
    case ElementType::kUint8:
      return first_numbers<uint8_t>(file, dataset, count);
    case ElementType::kUint64:
      return first_numbers<uint64_t>(file, dataset, count);
    case ElementType::kText:
      return file.read_texts(dataset, 0, count);
    case ElementType::kOther:
      break;
  }
  return json::array();
}

json describe_dataset(const Hdf5Reader& file, const std::string& path) {
  const DatasetInfo info = file.info(path);
  json description = {{"type", name_of(info.type)}, {"shape", info.shape}};
  if (info.shape.size() == 1 && info.shape[0] > 0) {
    description["first"] = first_entries(file, path, info.type, std::min(kFirstEntries, info.shape[0]));
  }
  json attributes = attributes_of(file, path);
  if (!attributes.empty()) description["attributes"] = std::move(attributes);
  return description;
}

// Adds what lies below a group; "" is the file itself.
void describe_below(const Hdf5Reader& file, const std::string& group, json& description) {
  for (const std::string& child : file.children(group.empty() ? "/" : group)) {
    const std::string path = group + "/" + child;
    if (!file.is_group(path)) {
      description["datasets"][path] = describe_dataset(file, path);
      continue;
    }
    json attributes = attributes_of(file, path);
    if (!attributes.empty()) description["groups"][path] = std::move(attributes);
    describe_below(file, path, description);
  }
}

json counts_of(const json& datasets) {
  json counts = json::object();
  const auto count_first_extent = [&](const char* name, const char* dataset) {
    const auto found = datasets.find(dataset);
    if (found != datasets.end() && found->at("shape").size() == 1) counts[name] = found->at("shape")[0];
  };
  count_first_extent("items", "/item/id");
  count_first_extent("users", "/user/id");
  count_first_extent("interactions", "/sequences/items");
  int64_t parameters = 0;
  for (const auto& [path, dataset] : datasets.items()) {
    if (path.rfind("/parameters/", 0) != 0) continue;
    int64_t size = 1;
    for (const json& extent : dataset.at("shape")) size *= extent.get<int64_t>();
    parameters += size;
  }
  if (parameters > 0) counts["parameters"] = parameters;
  return counts;
}

// A value as a person reads it: texts bare, long ones cut between characters.
std::string readable(const json& value) {
  std::string text =
      value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() <= kTextWidth) return text;
  size_t end = kTextWidth;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

std::string padded(std::string text, size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

void append_entries(std::string& text, const std::string& title, const json& entries) {
  if (entries.empty()) return;
  text += title + "\n";
  for (const auto& [name, value] : entries.items()) text += "  " + name + ": " + readable(value) + "\n";
}

std::string list_text(const json& values, const std::string& open, const std::string& close) {
  std::string text = open;
  for (const json& value : values) text += (text == open ? "" : ", ") + readable(value);
  return text + close;
}

}  // namespace

json describe_file(const std::string& path) {
  constexpr std::string_view kOurs = "itemloom ";
  const Hdf5Reader file(path);
  json attributes = attributes_of(file, "/");
  const json format = attributes.value("format", json());
  CHECK(format.is_string() && format.get<std::string>().rfind(kOurs, 0) == 0, path,
        " was not written by itemloom; a dataset, a checkpoint or an export was expected");
  json description = {{"path", path},
                      {"kind", format.get<std::string>().substr(kOurs.size())},
                      {"format_version", attributes.value("format_version", json())},
                      {"bytes", std::filesystem::file_size(path)},
                      {"sealed", file.sealed()},
                      {"groups", json::object()},
                      {"datasets", json::object()}};
  describe_below(file, "", description);
  description["counts"] = counts_of(description["datasets"]);
  attributes.erase("format");
  attributes.erase("format_version");
  if (description["kind"] == "checkpoint") {
    description["content_sha256"] = attributes.value("content_sha256", json());
    attributes.erase("content_sha256");
    for (const std::string name : {"texts", "integers", "numbers"}) {
      description[name] = description["groups"].value("/" + name, json::object());
      description["groups"].erase("/" + name);
    }
  }
  description["attributes"] = std::move(attributes);
  return description;
}

std::string description_text(const json& description) {
  std::string text =
      join_message(description.at("path").get<std::string>(), ": itemloom ", description.at("kind").get<std::string>(),
                   ", format version ", description.at("format_version").dump(), ", ", description.at("bytes").dump(),
                   " bytes", description.at("sealed").get<bool>() ? ", checksum intact" : "", "\n");
  if (description.contains("content_sha256")) {
    text += "content_sha256: " + readable(description["content_sha256"]) + "\n";
  }
  append_entries(text, "counts", description.at("counts"));
  append_entries(text, "attributes", description.at("attributes"));
  for (const char* name : {"integers", "numbers", "texts"}) {
    if (description.contains(name)) append_entries(text, name, description[name]);
  }
  for (const auto& [path, attributes] : description.at("groups").items()) append_entries(text, path, attributes);
  size_t name_width = 0, kind_width = 0;
  std::vector<std::pair<std::string, std::string>> rows;
  for (const auto& [path, dataset] : description.at("datasets").items()) {
    rows.emplace_back(path, dataset.at("type").get<std::string>() + " " + list_text(dataset.at("shape"), "(", ")"));
    name_width = std::max(name_width, path.size());
    kind_width = std::max(kind_width, rows.back().second.size());
  }
  if (!rows.empty()) text += "datasets\n";
  for (const auto& [path, kind] : rows) {
    const json& dataset = description.at("datasets").at(path);
    std::string line = "  " + padded(path, name_width) + "  " + kind;
    if (dataset.contains("first")) {
      line = "  " + padded(path, name_width) + "  " + padded(kind, kind_width) + "  " +
             list_text(dataset["first"], "", dataset["shape"][0] > kFirstEntries ? ", ..." : "");
    }
    text += line + "\n";
    if (!dataset.contains("attributes")) continue;
    for (const auto& [name, value] : dataset["attributes"].items())
      text += "    " + name + ": " + readable(value) + "\n";
  }
  return text;
}

}  // namespace itemloom
