#include "train/config_fingerprint.h"

#include <nlohmann/json.hpp>

#include "core/config_reader.h"
#include "core/files.h"

namespace itemloom {
namespace {

using Json = nlohmann::ordered_json;

// Without what may differ between ranks: paths, and what each one does on its own.
Json common_values(Config config) {
  Json values = dump_config(outline_of(config));
  values.erase("export");
  values["data"].erase("files");
  values["data"].erase("titles");
  if (values["data"].contains("columns")) values["data"]["columns"].erase("title");
  for (const char* key : {"threads", "rank_timeout"}) values["training"].erase(key);
  return values;
}

Json deciding_values(const Config& config) {
  Json values = common_values(config);
  values.erase("evaluation");
  values.erase("device");
  const ScheduleConfig& schedule = config.optimizer.schedule;
  const bool ends_with_epochs = schedule.name != "constant" && schedule.total_steps == 0;
  if (!ends_with_epochs) values["training"].erase("epochs");
  for (const char* key :
       {"validate_every", "early_stopping", "checkpoint_every", "keep_last", "keep_best", "max_skipped_steps"}) {
    values["training"].erase(key);
  }
  for (const char* key : {"cuda_graphs", "graph_bucket"}) values["training"].erase(key);
  values["optimizer"].erase("sharded");
  return values;
}

struct Differences {
  std::string in_both, in_one;  // the first of each kind; empty: none

  void find(const std::string& key, const Json* here, const Json* there);
  void find_in_objects(const std::string& key, const Json& here, const Json& there);
};

// A null pointer stands for a value that is not given.
void Differences::find(const std::string& key, const Json* here, const Json* there) {
  if (here != nullptr && there != nullptr && here->is_object() && there->is_object()) {
    return find_in_objects(key, *here, *there);
  }
  if (here != nullptr && there != nullptr && *here == *there) return;
  const auto text = [](const Json* value) { return value != nullptr ? value->dump() : std::string("not given"); };
  std::string& first = here != nullptr && there != nullptr ? in_both : in_one;
  if (first.empty()) first = key + " is " + text(here) + " here and " + text(there) + " there";
}

void Differences::find_in_objects(const std::string& key, const Json& here, const Json& there) {
  const auto value_of = [](const Json& object, const std::string& name) {
    const auto found = object.find(name);
    return found == object.end() ? nullptr : &*found;
  };
  const std::string prefix = key.empty() ? "" : key + ".";
  for (const auto& [name, value] : here.items()) find(prefix + name, &value, value_of(there, name));
  for (const auto& [name, value] : there.items()) {
    if (!here.contains(name)) find(prefix + name, nullptr, &value);
  }
}

}  // namespace

std::string config_fingerprint(const Config& config) {
  // Without order and layout: a key that moves in a struct changes nothing.
  return sha256(nlohmann::json(deciding_values(config)).dump());
}

std::string common_text(const Config& config) {
  return common_values(config).dump();
}

std::string first_difference(const std::string& here, const std::string& there) {
  Differences differences;
  const Json here_values = Json::parse(here), there_values = Json::parse(there);
  differences.find("", &here_values, &there_values);
  return differences.in_both.empty() ? differences.in_one : differences.in_both;
}

std::string first_deciding_difference(const Config& here, const Config& there) {
  return first_difference(deciding_values(here).dump(), deciding_values(there).dump());
}

}  // namespace itemloom
