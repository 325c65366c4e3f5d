#include "train/evaluate.h"

#include <fmt/format.h>

#include <memory>

#include "train/associations.h"
#include "train/commands/answers.h"
#include "train/commands/commands.h"
#include "train/run_folder.h"
#include "train/training_data.h"

namespace itemloom {
namespace {

struct Options : RunOptions {
  std::string split = "test";
  bool json = false, dump = false;
};

void print_table(const EvaluationResult& result) {
  fmt::print("{}: {} cases, full ranking, ties: {}\n", result.split, result.cases, kTieRule);
  for (const bool excluded : {true, false}) {
    const bool configured = (result.seen_items == "exclude") == excluded;
    fmt::print("seen items {}{}\n  {:12}", excluded ? "excluded" : "kept", configured ? "" : " (for comparison)", "");
    for (const Metric& metric : result.metrics) fmt::print(" {:>12}", metric.name);
    fmt::print("\n");
    for (const EvaluationLine& line : result.lines) {
      fmt::print("  {:12}", line.name);
      for (double value : excluded ? line.excluded : line.kept) fmt::print(" {:12.5f}", value);
      fmt::print("\n");
    }
  }
}

bool dumps_ranks(const OpenedRun& run, const Options& options) {
  return options.dump || run.config.evaluation.dump_ranks;
}

// A checkpoint that is replaced meanwhile, or a file system that shows some hosts an older one, would mix models.
void check_same_question(Communicator& communicator, const OpenedRun& run, const Options& options) {
  check_same(communicator, "SHA-256 " + run.checkpoint_sha256, "checkpoint",
             "ask again when no training replaces it, or name one with --checkpoint");
  check_same(communicator, options.split, "--split", "give all ranks the same options");
  check_same(communicator, dumps_ranks(run, options) ? "given" : "not given", "--dump-ranks",
             "give all ranks the same options");
  check_same_dataset(communicator, run.dataset);
}

const EvaluationCases& asked_of(const Split& split, const Options& options) {
  return options.split == "test" ? split.test : split.validation;
}

void evaluate_run(const Options& options, const Ranks& ranks) {
  ranks.communicator.status().enter(RankPhase::kReadingData);
  std::unique_ptr<OpenedRun> run;
  together(ranks.communicator, [&] {
    // Before the data and the checkpoint are read, where a file system may hang.
    ranks.set_timeout(static_cast<double>(run_config(RunFolder(options.run)).training.rank_timeout));
    run = open_run(options.run, options.checkpoint, options.device, ranks.communicator.local_rank(),
                   {.index = ranks.communicator.rank(), .count = ranks.communicator.size()});
  });
  check_same_question(ranks.communicator, *run, options);
  use_threads(run->config.training, ranks.communicator);
  ModelScorer model(*run->device, run->instance->model(), run->config.data.max_length);
  const std::vector<int64_t> counts = training_item_counts(run->dataset, run->split);
  PopularityScorer popularity(Vector<const int64_t>(counts.data(), counts.size()));
  ItemKnnScorer item_knn(training_pair_counts(run->dataset, run->split, false));
  ranks.communicator.status().enter(RankPhase::kValidating);
  EvaluationResult result =
      evaluate(run->dataset, asked_of(run->split, options), options.split, run->config.evaluation,
               {{"model", &model}, {"popularity", &popularity}, {"item_knn", &item_knn}}, ranks.communicator);
  const bool dumps = dumps_ranks(*run, options);
  if (dumps) gather_ranks(result, ranks.communicator);
  if (!ranks.communicator.is_first()) return;
  if (dumps) {
    const std::string path = run->folder.path() + "/ranks-" + options.split + ".h5";
    // Of all ranks.
    const Split whole = make_split(run->dataset, run->config.data);
    dump_ranks(run->dataset, asked_of(whole, options), result, path);
    fmt::print(stderr, "written: {}\n", path);
  }
  if (options.json) {
    print_json(result.to_json());
  } else {
    print_table(result);
  }
}

}  // namespace

void add_evaluate_command(CLI::App& app, const Ranks& ranks) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("evaluate", "Ranks held-out items against the whole catalogue");
  add_run_options(command, *options);
  command->add_option("--split", options->split, "test or validation")
      ->check(CLI::IsMember({"test", "validation"}))
      ->capture_default_str();
  command->add_flag("--dump-ranks", options->dump, "Also write every held-out item's rank to RUN/ranks-SPLIT.h5");
  command->add_flag("--json", options->json, "Answer with one JSON object");
  command->footer(
      "Examples:\n"
      "  itemloom evaluate --run runs/retail\n"
      "  itemloom evaluate --run runs/retail --split validation --json\n"
      "  itemloom evaluate --run runs/retail --checkpoint runs/retail/checkpoints/best-epoch-000040.h5");
  command->callback([options, ranks] { evaluate_run(*options, ranks); });
}

}  // namespace itemloom
