#include "data/prepare.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "data/dataset.h"
#include "data/report.h"
#include "train/commands/commands.h"
#include "train/config.h"
#include "train/run_folder.h"

namespace itemloom {
namespace {

struct Options {
  std::string config, out;
  std::vector<std::string> settings;
};

void prepare_dataset(const Options& options) {
  const LoadedConfig config = load_config(options.config, options.settings);
  use_threads(config.values.training);
  // Whether the file can be written is found out before hours of reading, not after.
  { const AsideFile probe(options.out); }
  const Dataset dataset = prepare(config.values.data);
  save_dataset(dataset, options.out);
  fmt::print(stderr, "{}", report_text(nlohmann::ordered_json::parse(dataset.report)));
  fmt::print(stderr, "written: {}\n", options.out);
}

}  // namespace

void add_prepare_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("prepare", "Reads and cleans raw input and writes one dataset file");
  command->add_option("config", options->config, "The config; its \"data\" says what to read")->required();
  command->add_option("--out", options->out, "The dataset file to write (HDF5)")->required();
  command->add_option("--set", options->settings, "KEY=VALUE over the config's; may be given again")
      ->allow_extra_args(false);
  command->footer(
      "Examples:\n"
      "  itemloom prepare configs/online-retail.json --out retail.h5\n"
      "  itemloom prepare mine.json --out mine.h5 --set data.on_bad_row=skip\n"
      "A config with \"data\": {\"files\": [\"retail.h5\"], \"format\": \"prepared\"} trains on the file.");
  command->callback([options] { prepare_dataset(*options); });
}

}  // namespace itemloom
