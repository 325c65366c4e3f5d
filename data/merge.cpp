#include "data/merge.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/rank_status.h"
#include "data/interactions.h"
#include "data/report.h"
#include "data/text.h"

namespace itemloom {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kIdsPerBeat = 65536;

void check_same(const std::string& first, const std::string& here, const std::string& first_name,
                const std::string& name) {
  CHECK(first == here, "data.files: ", name, " has ", here, ", but ", first_name, " has ", first,
        "; prepare all shards in the same way");
}

void check_alike(const Dataset& first, const Dataset& shard, const std::string& first_name, const std::string& name) {
  const auto times = [](const Dataset& dataset) {
    return dataset.timestamps ? "times in " + in_quotes(dataset.timestamp_unit) : std::string("no timestamps");
  };
  check_same("one sequence a " + first.sequence_by, "one sequence a " + shard.sequence_by, first_name, name);
  check_same(times(first), times(shard), first_name, name);
  check_same(first.baskets ? "baskets" : "no baskets", shard.baskets ? "baskets" : "no baskets", first_name, name);
}

void check_different(const std::vector<Dataset>& shards, const std::vector<std::string>& names) {
  std::map<std::string, size_t> seen;
  for (size_t i = 0; i < shards.size(); ++i) {
    const auto [place, is_new] = seen.emplace(shards[i].hash, i);
    CHECK(is_new, "data.files: ", names[i], " holds the same data as ", names[place->second], "; name it once");
  }
}

std::vector<int32_t> add_ids(Vocabulary& all, const Vocabulary& ids) {
  std::vector<int32_t> numbers;
  numbers.reserve(static_cast<size_t>(ids.size()));
  for (int32_t i = 0; i < ids.size(); ++i) {
    if (i % kIdsPerBeat == 0) heartbeat();
    numbers.push_back(all.add(ids[i]));
  }
  return numbers;
}

void add_titles(InteractionLog& log, const Dataset& shard, const std::vector<int32_t>& item_numbers) {
  if (shard.titles.empty()) return;
  log.titles.resize(static_cast<size_t>(log.items.size()));
  for (size_t item = 0; item < shard.titles.size(); ++item) {
    std::string& title = log.titles[static_cast<size_t>(item_numbers[item])];
    if (title.empty()) title = shard.titles[item];
  }
}

// Appends the shard's interactions, sequence by sequence; `baskets` is the number of baskets so far.
void add_interactions(InteractionLog& log, const Dataset& shard, int64_t& baskets) {
  const std::vector<int32_t> sequence_numbers = add_ids(log.sequences, shard.sequence_ids);
  const std::vector<int32_t> item_numbers = add_ids(log.items, shard.item_ids);
  add_titles(log, shard, item_numbers);
  for (int64_t sequence = 0; sequence < shard.sequence_count(); ++sequence) {
    log.sequence.insert(log.sequence.end(), static_cast<size_t>(shard.length(sequence)),
                        sequence_numbers[static_cast<size_t>(sequence)]);
  }
  for (int32_t item : shard.items) log.item.push_back(item_numbers[static_cast<size_t>(item)]);
  log.time.insert(log.time.end(), shard.timestamps.begin(), shard.timestamps.end());
  if (!shard.baskets) return;
  const int64_t first = baskets;
  baskets += int64_t{*std::max_element(shard.baskets.begin(), shard.baskets.end())} + 1;
  CHECK(baskets < INT32_MAX, "data.files: the shards have more than 2,147,483,646 baskets");
  for (int32_t basket : shard.baskets) log.basket.push_back(static_cast<int32_t>(first + basket));
}

void add_rule(std::vector<RuleReport>& rules, const Json& json) {
  const std::string rule = json.at("rule"), reason = json.at("reason");
  auto found = std::find_if(rules.begin(), rules.end(),
                            [&](const RuleReport& one) { return one.rule == rule && one.reason == reason; });
  if (found == rules.end()) found = rules.insert(rules.end(), {.rule = rule, .reason = reason});
  found->rows += json.at("rows").get<int64_t>();
  if (!json.contains("rounds")) return;
  found->users += json.at("users").get<int64_t>();
  found->items += json.at("items").get<int64_t>();
  found->rounds = std::max(found->rounds, json.at("rounds").get<int64_t>());
}

PreparationCounts add_up_reports(const std::vector<Dataset>& shards) {
  PreparationCounts counts;
  for (const Dataset& shard : shards) {
    const Json report = Json::parse(shard.report);
    counts.rows += report.at("rows").get<int64_t>();
    counts.bad_rows += report.at("bad_rows").at("count").get<int64_t>();
    for (const Json& shown : report.at("bad_rows").at("shown")) {
      if (counts.bad_rows_shown.size() < BadRows::kShown) counts.bad_rows_shown.push_back(shown);
    }
    for (const Json& rule : report.at("rules")) add_rule(counts.rules, rule);
  }
  return counts;
}

void describe_provenance(Dataset& dataset, const std::vector<Dataset>& shards, const std::vector<std::string>& names) {
  Json sources = Json::array();
  Json config = {{"format", "prepared"}, {"files", Json::array()}};
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const Json& source : Json::parse(shards[i].sources)) sources.push_back(source);
    config["files"].push_back({{"name", std::filesystem::path(names[i]).filename().string()},
                               {"sha256", shards[i].hash},
                               {"config", Json::parse(shards[i].config)}});
  }
  dataset.sources = sources.dump();
  dataset.config = config.dump();
}

}  // namespace

Dataset merge_datasets(const std::vector<Dataset>& shards, const std::vector<std::string>& names) {
  for (size_t i = 1; i < shards.size(); ++i) check_alike(shards[0], shards[i], names[0], names[i]);
  check_different(shards, names);
  InteractionLog log;
  int64_t baskets = 0;
  for (const Dataset& shard : shards) add_interactions(log, shard, baskets);
  if (!log.titles.empty()) log.titles.resize(static_cast<size_t>(log.items.size()));
  PreparationCounts counts = add_up_reports(shards);
  Dataset dataset = make_dataset(log, shards[0].sequence_by, shards[0].timestamp_unit, counts.ties);
  describe_provenance(dataset, shards, names);
  dataset.report = make_report(dataset, counts).dump();
  return dataset;
}

}  // namespace itemloom
