#include "data/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/text.h"
#include "data/timestamp.h"

namespace itemloom {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::pair<const char*, double> kQuantiles[] = {{"minimum", 0.0}, {"p10", 0.1},    {"p25", 0.25},
                                                         {"p50", 0.5},     {"p75", 0.75},   {"p90", 0.9},
                                                         {"p99", 0.99},    {"maximum", 1.0}};

Json describe_lengths(const Dataset& dataset) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) lengths.push_back(dataset.length(s));
  std::sort(lengths.begin(), lengths.end());
  const auto count = static_cast<double>(lengths.size());
  Json json = {{"mean", static_cast<double>(dataset.interaction_count()) / count}};
  for (const auto& [name, share] : kQuantiles) {
    const auto rank = static_cast<size_t>(std::max(std::ceil(share * count), 1.0));
    json[name] = lengths[rank - 1];
  }
  return json;
}

Json describe_times(const Dataset& dataset, int64_t ties) {
  const auto [first, last] = std::minmax_element(dataset.timestamps.begin(), dataset.timestamps.end());
  return {{"unit", dataset.timestamp_unit},
          {"first", format_ticks(*first, dataset.timestamp_unit)},
          {"last", format_ticks(*last, dataset.timestamp_unit)},
          {"ties", ties},
          {"tie_rule", "file order"}};
}

std::string number(const Json& json, const char* key) {
  return grouped(json.at(key).get<int64_t>());
}

// Three significant digits.
std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

}  // namespace

Json make_report(const Dataset& dataset, const PreparationCounts& counts) {
  Json report = {{"rows", counts.rows}, {"bad_rows", {{"count", counts.bad_rows}, {"shown", counts.bad_rows_shown}}}};
  report["rules"] = Json::array();
  for (const RuleReport& rule : counts.rules) {
    Json json = {{"rule", rule.rule}, {"reason", rule.reason}, {"rows", rule.rows}};
    if (rule.rule == "k_core") json.update({{"users", rule.users}, {"items", rule.items}, {"rounds", rule.rounds}});
    report["rules"].push_back(json);
  }
  report["sequence_by"] = dataset.sequence_by;
  report["sequences"] = dataset.sequence_count();
  report["items"] = dataset.item_count();
  report["interactions"] = dataset.interaction_count();
  if (dataset.baskets) report["baskets"] = *std::max_element(dataset.baskets.begin(), dataset.baskets.end()) + 1;
  // The share of (sequence, item) cells that would be filled if no item came twice in a sequence.
  report["density"] = static_cast<double>(dataset.interaction_count()) /
                      (static_cast<double>(dataset.sequence_count()) * static_cast<double>(dataset.item_count()));
  report["titles"] =
      std::count_if(dataset.titles.begin(), dataset.titles.end(), [](auto& text) { return !text.empty(); });
  report["lengths"] = describe_lengths(dataset);
  if (dataset.timestamps) report["times"] = describe_times(dataset, counts.ties);
  return report;
}

std::string report_text(const Json& report) {
  std::string text = number(report, "rows") + " rows read\n";
  const auto drop = [&](const std::string& rows, const std::string& reason) {
    text += std::string(12 - std::min<size_t>(rows.size(), 11), ' ') + rows + " dropped: " + reason + "\n";
  };
  if (const Json& bad = report.at("bad_rows"); bad.at("count") > 0) {
    drop(number(bad, "count"), "cannot be read");
    for (const std::string shown : bad.at("shown")) text += std::string(14, ' ') + shown + "\n";
  }
  for (const Json& rule : report.at("rules")) {
    std::string reason = rule.at("reason");
    if (rule.contains("rounds")) {
      reason += " (in " + number(rule, "rounds") + " rounds; " + number(rule, "users") + " users and " +
                number(rule, "items") + " items went)";
    }
    drop(number(rule, "rows"), reason);
  }
  const std::string sequence_by = report.at("sequence_by");
  text += number(report, "interactions") + " interactions of " + number(report, "sequences") + " " + sequence_by +
          "s with " + number(report, "items") + " items";
  if (report.contains("baskets")) text += " in " + number(report, "baskets") + " baskets";
  text += "; density " + short_number(100 * report.at("density").get<double>()) + " %; " + number(report, "titles") +
          " items have titles\n";
  const Json& lengths = report.at("lengths");
  text += "lengths: mean " + short_number(lengths.at("mean")) + ", least " + number(lengths, "minimum");
  for (const char* name : {"p10", "p25", "p50", "p75", "p90", "p99"}) {
    text += std::string(", ") + (name + 1) + " % " + number(lengths, name);
  }
  text += ", most " + number(lengths, "maximum") + "\n";
  if (report.contains("times")) {
    const Json& times = report.at("times");
    text += "times: " + times.at("first").get<std::string>() + " to " + times.at("last").get<std::string>() + " (" +
            times.at("unit").get<std::string>() + "); " + number(times, "ties") +
            " interactions have the time of the one before them and keep the order of the files\n";
  }
  return text;
}

}  // namespace itemloom
