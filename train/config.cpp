#include "train/config.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/config_reader.h"
#include "core/json_schema.h"
#include "kernels/attention.h"
#include "train/metrics.h"

namespace itemloom {
namespace {

void validate_ranks(const TrainingConfig& training) {
  CHECK(!training.bitwise_across_ranks || std::has_single_bit(static_cast<uint64_t>(training.gradient_shards)),
        "training.gradient_shards is ", training.gradient_shards, ", but must be a power of two");
}

void validate_device(const Config& config) {
  CHECK(config.device == "cuda" || config.training.precision == "fp32", "training.precision is ",
        config.training.precision, ", but device cpu computes in fp32 only; set it to fp32, or device to cuda");
  CHECK(config.device == "cuda" || config.training.gradient_exchange == "fp32", "training.gradient_exchange is ",
        config.training.gradient_exchange,
        ", but on device cpu gradients travel in fp32 only; set it to fp32, or device to cuda");
  CHECK(config.device == "cuda" || !config.training.cuda_graphs,
        "training.cuda_graphs is true, but device cpu has no graphs; set it to false, or device to cuda");
  const int64_t head = config.model.hidden_size / config.model.heads;
  CHECK(config.device == "cpu" || head <= kLargestCudaHead, "model.hidden_size ", config.model.hidden_size,
        " and model.heads ", config.model.heads, " make heads of ", head, "; device cuda takes heads of up to ",
        kLargestCudaHead, ": raise model.heads");
  CHECK(config.device == "cpu" || !config.training.bitwise_across_ranks,
        "training.bitwise_across_ranks is true, which device cuda cannot promise: NCCL has its own order of sums; set "
        "it to false, or device to cpu");
}

void validate_evaluation(const Config& config) {
  const std::vector<std::string>& metrics = config.evaluation.metrics;
  parse_metrics(metrics);
  const std::string& best = config.training.early_stopping.metric;
  CHECK(config.training.validate_every == 0 || std::count(metrics.begin(), metrics.end(), best),
        "training.early_stopping.metric is \"", best, "\", which is not one of evaluation.metrics; add it there");
}

bool is_column_number(const std::string& column) {
  return !column.empty() && column.size() < 7 && column[0] != '0' &&
         std::all_of(column.begin(), column.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Without a header columns have numbers only. Empty columns are not there.
void check_numbered(const std::string& key, const std::string& column, const char* header_key) {
  CHECK(column.empty() || is_column_number(column), key, " is \"", column, "\", but without a header (", header_key,
        " is false) columns are numbers from \"1\" on");
}

void validate_columns(const DataConfig& data) {
  const ColumnsConfig& columns = data.columns;
  const bool by_basket = data.sequence_by == "basket";
  if (data.format == "csv") {
    CHECK(!columns.item.empty(), "data.columns.item is not given; name the column that holds the items' ids");
    CHECK(by_basket || !columns.user.empty(),
          "data.columns.user is not given; name the column that holds the users' ids, or make each basket a sequence "
          "(data.sequence_by = basket)");
  }
  CHECK(
      !by_basket || !columns.basket.empty(),
      "data.columns.basket is not given, but data.sequence_by is basket; name the column that holds the baskets' ids");
  CHECK(data.split != "temporal" || data.format != "csv" || !columns.timestamp.empty(),
        "data.columns.timestamp is not given, but data.split is temporal; name the column that holds the times");
  if (data.format != "csv" || data.csv.header) return;
  check_numbered("data.columns.user", columns.user, "data.csv.header");
  check_numbered("data.columns.item", columns.item, "data.csv.header");
  check_numbered("data.columns.timestamp", columns.timestamp, "data.csv.header");
  check_numbered("data.columns.basket", columns.basket, "data.csv.header");
  check_numbered("data.columns.title", columns.title, "data.csv.header");
}

void validate_filter(const DataConfig& data, const FilterConfig& filter, const std::string& key) {
  const bool table = data.format == "csv" || data.format == "inter";
  if (filter.rule == "match") {
    CHECK(!filter.column.empty(), key, ".column is not given; name the column to look at");
    CHECK(!filter.pattern.empty(), key, ".pattern is not given; name what to look for");
  }
  const bool needs_columns = filter.rule == "missing" || filter.rule == "positive";
  CHECK(!needs_columns || !filter.columns.empty(), key, ".columns is empty; name the columns to look at");
  std::vector<std::string> columns = filter.columns;
  if (!filter.column.empty()) columns.push_back(filter.column);
  CHECK(table || columns.empty(), key, " looks at the column \"", columns.empty() ? "" : columns[0],
        "\", but data.format is sequences, which has no columns");
  for (const std::string& column : columns) {
    CHECK(!column.empty(), key, ": a column's name is empty");
    if (data.format == "csv" && !data.csv.header) check_numbered(key, column, "data.csv.header");
  }
}

void validate_data(const DataConfig& data) {
  CHECK(!data.files.empty(), "data.files is empty; name at least one file");
  for (const std::string& file : data.files) CHECK(!file.empty(), "data.files: a name is empty");
  if (data.format == "csv" || data.format == "inter") validate_columns(data);
  if (data.format != "prepared") {
    for (size_t i = 0; i < data.filters.size(); ++i)
      validate_filter(data, data.filters[i], join_message("data.filters[", i, "]"));
    const TitlesConfig& titles = data.titles;
    if (!titles.file.empty()) {
      CHECK(!titles.id_column.empty(), "data.titles.id_column is empty; name the column that holds the items' ids");
      CHECK(!titles.title_column.empty(), "data.titles.title_column is empty; name the column that holds the titles");
      if (!titles.header) {
        check_numbered("data.titles.id_column", titles.id_column, "data.titles.header");
        check_numbered("data.titles.title_column", titles.title_column, "data.titles.header");
      }
    }
  }
  if (data.split == "temporal") {
    CHECK(data.format != "sequences", "data.split is temporal, but data.format is sequences, which has no times");
    CHECK(!data.temporal.validation_from.empty(), "data.temporal.validation_from is not given; name a date or number");
    CHECK(!data.temporal.test_from.empty(), "data.temporal.test_from is not given; name a date or number");
  }
  CHECK(data.windows != "sliding" || data.window_stride <= data.max_length, "data.window_stride ", data.window_stride,
        " is more than data.max_length ", data.max_length, ", so that items between windows would be left out");
}

void validate_model(const ModelConfig& model) {
  CHECK(model.hidden_size % model.heads == 0, "model.heads ", model.heads, " does not divide model.hidden_size ",
        model.hidden_size);
}

void validate_training(const Config& config) {
  const TrainingConfig& training = config.training;
  CHECK(training.batch_tokens == 0 || training.batch_tokens >= config.data.max_length, "training.batch_tokens ",
        training.batch_tokens, " is less than data.max_length ", config.data.max_length,
        ", so that one sequence would not fit a batch");
  const ScheduleConfig& schedule = config.optimizer.schedule;
  CHECK(schedule.name == "constant" || schedule.total_steps == 0 || schedule.warmup_steps < schedule.total_steps,
        "optimizer.schedule.warmup_steps ", schedule.warmup_steps, " is not less than optimizer.schedule.total_steps ",
        schedule.total_steps);
}

}  // namespace

DeviceKind device_kind(const std::string& device) {
  CHECK(device == "cpu" || device == "cuda", "device is '", device, "'; it can be cpu or cuda");
  return device == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
}

Precision precision_on(DeviceKind kind, const TrainingConfig& training) {
  if (kind == DeviceKind::kCpu || training.precision == "fp32") return Precision::kFp32;
  CHECK(training.precision == "tf32" || training.precision == "bf16", "training.precision is '", training.precision,
        "'; it can be fp32, tf32 or bf16");
  return training.precision == "tf32" ? Precision::kTf32 : Precision::kBf16;
}

int64_t piece_tokens_on(DeviceKind kind, const TrainingConfig& training) {
  if (training.micro_batch_tokens > 0) return training.micro_batch_tokens;
  // A CPU's caches hold the activations of one layer; a GPU takes a while to start a kernel, however little it does.
  return kind == DeviceKind::kCpu ? 2048 : 32768;
}

void validate(const Config& config) {
  validate_data(config.data);
  validate_model(config.model);
  validate_training(config);
  validate_evaluation(config);
  validate_device(config);
  validate_ranks(config.training);
}

LoadedConfig load_config(const std::string& path, const std::vector<std::string>& settings) {
  ConfigLayers layers;
  layers.add_file(path);
  for (const std::string& setting : settings) layers.add_setting(setting);
  LoadedConfig loaded;
  const JsonNode given = read_config(layers, loaded.values);
  try {
    validate(loaded.values);
  } catch (const Error& error) {
    fail(path, ": ", error.what());
  }
  const ConfigOutline outline = outline_of(loaded.values);
  loaded.resolved = dump_config(outline).dump(2) + "\n";
  loaded.origins = dump_origins(outline, given).dump(2) + "\n";
  return loaded;
}

std::string config_schema() {
  Config defaults;
  return json_schema(outline_of(defaults), "Itemloom config").dump(2) + "\n";
}

}  // namespace itemloom
