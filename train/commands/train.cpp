#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "core/files.h"
#include "data/prepare.h"
#include "train/commands/answers.h"
#include "train/commands/commands.h"
#include "train/config.h"
#include "train/evaluate.h"
#include "train/memory_plan.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/training_data.h"
#include "train/training_run.h"

namespace itemloom {
namespace {

struct Options {
  std::string config, run;
  std::vector<std::string> settings;
  bool resume = false, dry_run = false;
};

// What training would need, by the data and the config; nothing is written, and no GPU is asked for.
void plan_training(const Options& options, const LoadedConfig& config, Communicator& communicator) {
  // Of which some kernels' working memory depends.
  use_threads(config.values.training, communicator);
  together(communicator, [&] {
    if (!communicator.is_first()) return;
    const DataConfig& data_config = config.values.data;
    const TrainingData data = make_training_data(prepare(data_config), data_config, communicator);
    check_plan(config.values, data, communicator);
    const MemoryPlan plan = plan_memory(config.values, training_windows(data, data_config), data.dataset.item_count(),
                                        ranking_cases(data.dataset, data.split.validation), communicator);
    fmt::print(
        "{}: {} items; memory of device {} on {}\n{}", options.config, data.dataset.item_count(), config.values.device,
        communicator.size() == 1 ? "one rank" : fmt::format("each of {} ranks", communicator.size()), plan.text());
    finish_standard_output();
  });
}

void train_model(const Options& options, const Ranks& ranks) {
  set_up_logging();
  LoadedConfig config;
  together(ranks.communicator, [&] { config = load_config(options.config, options.settings); });
  ranks.set_timeout(static_cast<double>(config.values.training.rank_timeout));
  if (options.dry_run) return plan_training(options, config, ranks.communicator);
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
  CLI::Option* run = command->add_option("--run", options->run, "The folder of the run; made if it is not there");
  command->add_option("--set", options->settings, "KEY=VALUE over the config's; may be given again")
      ->allow_extra_args(false);
  CLI::Option* resume =
      command->add_flag("--resume", options->resume, "Go on from the run's last checkpoint, exact to the bit");
  command->add_flag("--dry-run", options->dry_run, "Only say what memory each rank's device would need")
      ->excludes(run)
      ->excludes(resume);
  command->footer(
      "Examples:\n"
      "  itemloom train configs/online-retail.json --run runs/retail\n"
      "  itemloom train configs/ml-1m.json --run runs/a --set optimizer.learning_rate=5e-4 --set training.epochs=50\n"
      "  itemloom train configs/ml-1m.json --run runs/a --resume\n"
      "  itemloom train configs/ml-1m.json --dry-run --set device=cuda\n"
      "  mpirun -n 4 itemloom train configs/ml-1m.json --run runs/a\n"
      "Ctrl-C (or SIGTERM) finishes the step, saves, and says how to go on.");
  command->callback([options, ranks, run] {
    if (run->count() == 0 && !options->dry_run) throw CLI::RequiredError("--run");
    train_model(*options, ranks);
  });
}

}  // namespace itemloom
