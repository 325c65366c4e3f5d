#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/config_reader.h"
#include "core/files.h"
#include "data/filters.h"
#include "data/interactions.h"
#include "data/merge.h"
#include "data/readers.h"
#include "data/report.h"
#include "data/text.h"

namespace itemloom {
namespace {

using Json = nlohmann::ordered_json;

std::string file_name(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

// Names without folders, so that the same data makes the same file wherever it lies.
std::string describe_sources(const DataConfig& config) {
  std::vector<std::string> paths = config.files;
  if (!config.titles.file.empty()) paths.push_back(config.titles.file);
  Json sources = Json::array();
  for (const std::string& path : paths) {
    sources.push_back(
        {{"name", file_name(path)}, {"bytes", std::filesystem::file_size(path)}, {"sha256", sha256_of_file(path)}});
  }
  return sources.dump();
}

// The part of the config that decides about the dataset's content.
std::string describe_config(DataConfig config) {
  for (std::string& path : config.files) path = file_name(path);
  if (!config.titles.file.empty()) config.titles.file = file_name(config.titles.file);
  Json json = dump_config(outline_of(config));
  for (const char* key : {"split", "temporal", "max_length", "windows", "window_stride"}) json.erase(key);
  return json.dump();
}

InteractionLog read_interactions(const DataConfig& config, RowFilters& filters, PreparationCounts& counts,
                                 BadRows& bad_rows) {
  InteractionCollector collector(config);
  counts.rows = read_rows(config,
                          {.begin_file = [&](const Header& header) { filters.begin_file(header); },
                           .keep = [&](const Row& row) { return filters.keep(row); },
                           .take = [&](const Row& row) { return collector.take(row); }},
                          bad_rows);
  if (!config.titles.file.empty()) {
    read_titles(
        config.titles, [&](std::string_view id, std::string_view title) { collector.set_title(id, title); }, bad_rows);
  }
  bad_rows.finish();
  return collector.finish();
}

// Says where all the rows went.
[[noreturn]] void fail_nothing_left(const PreparationCounts& counts, const BadRows& bad_rows) {
  CHECK(counts.rows > 0, "data.files hold no rows");
  const std::string start = "no interaction is left of " + grouped(counts.rows) + " rows: ";
  const auto most = std::max_element(counts.rules.begin(), counts.rules.end(),
                                     [](const RuleReport& a, const RuleReport& b) { return a.rows < b.rows; });
  CHECK(most != counts.rules.end() && most->rows > bad_rows.count(), start, bad_rows.summary());
  fail(start, "the rule ", in_quotes(most->rule), " dropped most, ", grouped(most->rows), " (", most->reason,
       "); look at data.filters");
}

// Every file is looked for before the first one is read.
Dataset load_prepared(const std::vector<std::string>& files) {
  for (const std::string& file : files) check_readable_file(file);
  if (files.size() == 1) return load_dataset(files[0]);
  std::vector<Dataset> shards;
  for (const std::string& file : files) shards.push_back(load_dataset(file));
  return merge_datasets(shards, files);
}

}  // namespace

Dataset prepare(const DataConfig& config) {
  if (config.format == "prepared") return load_prepared(config.files);
  PreparationCounts counts;
  BadRows bad_rows(config.on_bad_row);
  RowFilters filters(config.filters);
  InteractionLog log = read_interactions(config, filters, counts, bad_rows);
  counts.rules = filters.reports();
  for (const FilterConfig& filter : config.filters) {
    if (filter.rule == "k_core") counts.rules.push_back(drop_to_k_core(log, filter.users, filter.items));
  }
  if (log.size() == 0) fail_nothing_left(counts, bad_rows);

  counts.bad_rows = bad_rows.count();
  counts.bad_rows_shown = bad_rows.shown();
  const std::string sequence_by = config.format == "sequences" ? "user" : config.sequence_by;
  Dataset dataset = make_dataset(log, sequence_by, log.scale.unit(), counts.ties);
  dataset.sources = describe_sources(config);
  dataset.config = describe_config(config);
  dataset.report = make_report(dataset, counts).dump();
  return dataset;
}

}  // namespace itemloom
