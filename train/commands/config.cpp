#include "train/config.h"

#include <fmt/format.h>

#include <memory>

#include "train/commands/commands.h"

namespace itemloom {

void add_config_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("config", "Describes and checks configs");
  command->require_subcommand(1);
  CLI::App* schema = command->add_subcommand("schema", "Prints the JSON Schema of configs, for editors");
  schema->footer("Example:\n  itemloom config schema > schema.json");
  schema->callback([] { fmt::print("{}\n", config_schema()); });

  struct Options {
    std::string config;
    std::vector<std::string> settings;
  };
  auto options = std::make_shared<Options>();
  CLI::App* show = command->add_subcommand("show", "Checks a config and prints every value that has an effect");
  show->add_option("config", options->config, "The config")->required();
  show->add_option("--set", options->settings, "KEY=VALUE over the config's; may be given again")
      ->allow_extra_args(false);
  show->footer("Example:\n  itemloom config show configs/ml-1m.json --set model.heads=4");
  show->callback([options] { fmt::print("{}\n", load_config(options->config, options->settings).resolved); });
}

}  // namespace itemloom
