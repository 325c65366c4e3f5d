#include <spdlog/spdlog.h>

#include <memory>

#include "train/commands/commands.h"
#include "train/config.h"
#include "train/report.h"
#include "train/training_run.h"

namespace itemloom {
namespace {

struct Options {
  std::string config, run;
  std::vector<std::string> settings;
  bool resume = false;
};

void train_model(const Options& options, const Ranks& ranks) {
  set_up_logging();
  LoadedConfig config;
  together(ranks.communicator, [&] { config = load_config(options.config, options.settings); });
  ranks.set_timeout(static_cast<double>(config.values.training.rank_timeout));
  const RunOutcome outcome = train_run(config, options.run, options.resume, ranks.communicator);
  if (!ranks.communicator.is_first()) return;
  if (outcome == RunOutcome::kFinished) {
    spdlog::info("done: {}; next: itemloom evaluate --run {}, itemloom export --run {} --out F.h5", options.run,
                 options.run, options.run);
    return;
  }
  std::string settings;
  for (const std::string& setting : options.settings) settings += " --set '" + setting + "'";
  spdlog::info("stopped, the state is saved; go on with: itemloom train {} --run {}{} --resume", options.config,
               options.run, settings);
}

}  // namespace

void add_train_command(CLI::App& app, const Ranks& ranks) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Trains a model into a run folder");
  command->add_option("config", options->config, "The config (JSON); `itemloom config schema` describes it")
      ->required();
  command->add_option("--run", options->run, "The folder of the run; made if it is not there")->required();
  command->add_option("--set", options->settings, "KEY=VALUE over the config's; may be given again")
      ->allow_extra_args(false);
  command->add_flag("--resume", options->resume, "Go on from the run's last checkpoint, exact to the bit");
  command->footer(
      "Examples:\n"
      "  itemloom train configs/online-retail.json --run runs/retail\n"
      "  itemloom train configs/ml-1m.json --run runs/a --set optimizer.learning_rate=5e-4 --set training.epochs=50\n"
      "  itemloom train configs/ml-1m.json --run runs/a --resume\n"
      "  mpirun -n 4 itemloom train configs/ml-1m.json --run runs/a\n"
      "Ctrl-C (or SIGTERM) finishes the step, saves, and says how to go on.");
  command->callback([options, ranks] { train_model(*options, ranks); });
}

}  // namespace itemloom
