#include "train/training_run.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/files.h"
#include "core/parallel.h"
#include "data/prepare.h"
#include "data/report.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/config_fingerprint.h"
#include "train/evaluate.h"
#include "train/event_file.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace itemloom {
namespace {

std::atomic<int> received_signal{0};

// SIGINT and SIGTERM ask the run to stop at the next step; a second one ends it at once, as by default.
class SignalWatch {
 public:
  SignalWatch() {
    received_signal = 0;
    struct sigaction action {};
    action.sa_handler = [](int number) { received_signal = number; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_interrupt_);
    sigaction(SIGTERM, &action, &before_terminate_);
  }
  ~SignalWatch() {
    sigaction(SIGINT, &before_interrupt_, nullptr);
    sigaction(SIGTERM, &before_terminate_, nullptr);
  }
  bool asked_to_stop() const { return received_signal != 0; }

 private:
  struct sigaction before_interrupt_, before_terminate_;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Where a run stands; all of it is in a checkpoint.
struct RunState {
  int64_t epoch = 0;  // epochs finished
  int64_t batch = 0;  // batches done of the next one
  int64_t step = 0;   // batches done in all
  int64_t skipped = 0, skipped_in_a_row = 0;
  double loss_sum = 0;  // of the batches done of the epoch
  int64_t masked = 0;
  double best_metric = -std::numeric_limits<double>::infinity();
  int64_t best_epoch = 0, validations_since_best = 0;
};

class TrainingRun {
 public:
  TrainingRun(const LoadedConfig& loaded, const RunFolder& folder, Dataset dataset)
      : loaded_(loaded),
        config_(loaded.values),
        folder_(folder),
        dataset_(std::move(dataset)),
        split_(make_split(dataset_, config_.data)),
        instance_(config_.model, dataset_.item_count(), config_.data.max_length, seed()),
        optimizer_(config_.optimizer, instance_.parameters()),
        loader_(dataset_.items, training_windows(), Masking(config_.masking, seed(), dataset_.item_count()),
                {.max_length = config_.data.max_length,
                 .batch_sequences = config_.training.batch_size,
                 .batch_tokens = config_.training.batch_tokens,
                 .piece_tokens = config_.training.micro_batch_tokens,
                 .seed = seed()}),
        step_(device_, instance_, optimizer_, config_, total_steps()) {}

  void restore();
  RunOutcome run();

 private:
  uint64_t seed() const { return static_cast<uint64_t>(config_.training.seed); }
  std::vector<Window> training_windows() const;
  int64_t total_steps();
  CheckpointState checkpoint_state();
  void save(const std::string& path);
  bool run_epoch(const SignalWatch& signals, Progress& progress);
  void take_step(const StepBatch& batch);
  void finish_epoch(MetricsLog& metrics, EventFile& events, Progress& progress);
  void validate(nlohmann::json& line);
  bool ended() const;
  bool stopped_early() const;

  const LoadedConfig& loaded_;
  const Config& config_;
  RunFolder folder_;
  Device device_;
  Dataset dataset_;
  Split split_;
  ModelInstance instance_;
  Optimizer optimizer_;
  Loader loader_;
  TrainingStep step_;
  RunState state_;

  // Of this process's share of the epoch, for speeds.
  std::chrono::steady_clock::time_point epoch_start_;
  int64_t epoch_rows_ = 0, epoch_sequences_ = 0;
  double last_learning_rate_ = 0, last_gradient_norm_ = 0;
};

std::vector<Window> TrainingRun::training_windows() const {
  return make_windows(Vector<const int64_t>(dataset_.offsets.data(), dataset_.sequence_count()),
                      Vector<const int64_t>(split_.training_ends.data(), split_.training_ends.size()), config_.data);
}

// With batches by tokens the number of batches varies a little between epochs; the first one stands for all.
int64_t TrainingRun::total_steps() {
  const int64_t given = config_.optimizer.schedule.total_steps;
  const int64_t steps = given > 0 ? given : config_.training.epochs * loader_.batches(0);
  check_warmup_ends(config_.optimizer.schedule, steps);
  return steps;
}

CheckpointState TrainingRun::checkpoint_state() {
  CheckpointState state;
  const ParameterStore& parameters = instance_.parameters();
  state.parameters = tensors_of(parameters, parameters.values());
  for (const Optimizer::Slot& slot : optimizer_.slots()) {
    const auto tensors = tensors_of(parameters, slot.values, config_.optimizer.name + "." + slot.name + "/");
    state.optimizer_slots.insert(state.optimizer_slots.end(), tensors.begin(), tensors.end());
  }
  state.texts = {{"config_fingerprint", config_fingerprint(config_)}, {"dataset_hash", dataset_.hash}};
  state.integers = {{"epoch", state_.epoch},
                    {"batch", state_.batch},
                    {"step", state_.step},
                    {"optimizer_steps", optimizer_.steps()},
                    {"skipped", state_.skipped},
                    {"skipped_in_a_row", state_.skipped_in_a_row},
                    {"masked", state_.masked},
                    {"best_epoch", state_.best_epoch},
                    {"validations_since_best", state_.validations_since_best}};
  state.numbers = {{"loss_sum", state_.loss_sum}, {"best_metric", state_.best_metric}};
  return state;
}

void TrainingRun::save(const std::string& path) {
  save_checkpoint(path, checkpoint_state());
}

void TrainingRun::restore() {
  CheckpointState saved = checkpoint_state();
  load_checkpoint(folder_.last_checkpoint(), saved);
  optimizer_.set_steps(saved.integers.at("optimizer_steps"));
  state_ = {.epoch = saved.integers.at("epoch"),
            .batch = saved.integers.at("batch"),
            .step = saved.integers.at("step"),
            .skipped = saved.integers.at("skipped"),
            .skipped_in_a_row = saved.integers.at("skipped_in_a_row"),
            .loss_sum = saved.numbers.at("loss_sum"),
            .masked = saved.integers.at("masked"),
            .best_metric = saved.numbers.at("best_metric"),
            .best_epoch = saved.integers.at("best_epoch"),
            .validations_since_best = saved.integers.at("validations_since_best")};
}

bool TrainingRun::stopped_early() const {
  const int64_t patience = config_.training.early_stopping.patience;
  return config_.training.validate_every > 0 && patience > 0 && state_.validations_since_best >= patience;
}

bool TrainingRun::ended() const {
  return state_.epoch >= config_.training.epochs || stopped_early();
}

void TrainingRun::take_step(const StepBatch& batch) {
  const StepResult result = step_.run(batch, state_.step);
  ++state_.step;
  ++state_.batch;
  epoch_rows_ += batch.rows;
  epoch_sequences_ += batch.sequences;
  last_learning_rate_ = result.learning_rate;
  last_gradient_norm_ = result.gradient_norm;
  if (!result.skipped) {
    state_.skipped_in_a_row = 0;
    state_.loss_sum += result.loss_sum;
    state_.masked += batch.masked;
    return;
  }
  ++state_.skipped;
  ++state_.skipped_in_a_row;
  spdlog::warn("step {} was skipped: the loss or its gradient is not finite", state_.step);
  CHECK(state_.skipped_in_a_row <= config_.training.max_skipped_steps, "the loss or its gradient was not finite ",
        state_.skipped_in_a_row, " steps in a row, up to step ", state_.step, " (training.max_skipped_steps is ",
        config_.training.max_skipped_steps, "); lower optimizer.learning_rate, or set optimizer.clip_norm. ",
        std::filesystem::exists(folder_.last_checkpoint()) ? "The last good state is in " + folder_.last_checkpoint()
                                                           : "No state was saved before");
}

// Gives false when a signal ended it before its last batch.
bool TrainingRun::run_epoch(const SignalWatch& signals, Progress& progress) {
  epoch_start_ = std::chrono::steady_clock::now();
  epoch_rows_ = epoch_sequences_ = 0;
  const int64_t batches = loader_.batches(state_.epoch);
  while (state_.batch < batches) {
    if (signals.asked_to_stop()) return false;
    const StepBatch& batch = loader_.load(state_.epoch, state_.batch);
    take_step(batch);
    progress.step({.epoch = state_.epoch + 1,
                   .epochs = config_.training.epochs,
                   .step = state_.batch,
                   .steps = batches,
                   .loss = state_.masked > 0 ? state_.loss_sum / static_cast<double>(state_.masked) : 0,
                   .tokens = batch.rows});
  }
  return true;
}

void TrainingRun::validate(nlohmann::json& line) {
  const auto start = std::chrono::steady_clock::now();
  ModelScorer scorer(device_, instance_.model(), config_.data.max_length);
  const EvaluationResult result =
      evaluate(dataset_, split_.validation, "validation", config_.evaluation, {{"model", &scorer}});
  line["validation"] = result.model_metrics();
  line["validation_seconds"] = seconds_since(start);
  const double metric = result.model_metric(config_.training.early_stopping.metric);
  if (metric > state_.best_metric) {
    state_.best_metric = metric;
    state_.best_epoch = state_.epoch;
    state_.validations_since_best = 0;
  } else {
    ++state_.validations_since_best;
  }
}

void TrainingRun::finish_epoch(MetricsLog& metrics, EventFile& events, Progress& progress) {
  const double seconds = seconds_since(epoch_start_);
  nlohmann::json line = {{"epoch", state_.epoch + 1},
                         {"step", state_.step},
                         {"loss", state_.masked > 0 ? state_.loss_sum / static_cast<double>(state_.masked) : 0},
                         {"seconds", seconds},
                         {"tokens_per_second", static_cast<double>(epoch_rows_) / seconds},
                         {"sequences_per_second", static_cast<double>(epoch_sequences_) / seconds},
                         {"learning_rate", last_learning_rate_},
                         {"gradient_norm", last_gradient_norm_},
                         {"skipped_steps", state_.skipped}};
  ++state_.epoch;
  state_.batch = 0;
  state_.loss_sum = 0;
  state_.masked = 0;
  const int64_t validate_every = config_.training.validate_every;
  if (validate_every > 0 && (state_.epoch % validate_every == 0 || state_.epoch == config_.training.epochs)) {
    validate(line);
    if (state_.best_epoch == state_.epoch) save(folder_.best_checkpoint());
  }
  metrics.append(line);
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, value] : line.items()) {
    if (value.is_number() && name != "epoch" && name != "step") scalars.emplace_back("training/" + name, value);
  }
  if (line.contains("validation")) {
    for (const auto& [name, value] : line["validation"].items()) scalars.emplace_back("validation/" + name, value);
  }
  events.write(state_.step, scalars);
  progress.epoch(line, config_.training.epochs);
  const int64_t checkpoint_every = config_.training.checkpoint_every;
  if (ended() || (checkpoint_every > 0 && state_.epoch % checkpoint_every == 0)) save(folder_.last_checkpoint());
}

RunOutcome TrainingRun::run() {
  if (ended()) {
    spdlog::info("{} is finished: {} epochs", folder_.path(), state_.epoch);
    return RunOutcome::kFinished;
  }
  spdlog::info("{} items, {} training sequences, {} parameters, {} threads, kernels {}", dataset_.item_count(),
               loader_.windows(), instance_.parameters().count(), thread_count(), cpu_kernels());
  if (const std::string unasked = unasked_text(split_); !unasked.empty()) spdlog::info("{}", unasked);
  const SignalWatch signals;
  MetricsLog metrics(folder_.metrics(), state_.epoch);
  EventFile events(folder_.path(), state_.step);
  Progress progress;
  while (!ended()) {
    if (!run_epoch(signals, progress)) {
      save(folder_.last_checkpoint());
      return RunOutcome::kStopped;
    }
    finish_epoch(metrics, events, progress);
  }
  if (stopped_early()) {
    spdlog::info("stopped after epoch {}: {} is best at epoch {} ({:.5f})", state_.epoch,
                 config_.training.early_stopping.metric, state_.best_epoch, state_.best_metric);
  }
  return RunOutcome::kFinished;
}

void check_same_run(const LoadedConfig& loaded, const RunFolder& folder) {
  const std::string difference = first_deciding_difference(loaded.values, load_config(folder.config(), {}).values);
  CHECK(difference.empty(), "--resume: ", folder.path(), " was begun with another config: ", difference,
        "; give the values it was begun with, or another --run");
}

}  // namespace

RunOutcome train_run(const LoadedConfig& loaded, const std::string& path, bool resume) {
  const RunFolder folder(path);
  if (resume) {
    CHECK(folder.holds_run(), "--resume: ", path, " holds no run");
    check_same_run(loaded, folder);
  } else {
    folder.check_holds_no_run();
    check_folder_can_be_made(path);
  }
  use_threads(loaded.values.training);
  Dataset dataset = resume ? run_dataset(folder, loaded.values.data) : prepare(loaded.values.data);
  TrainingRun run(loaded, folder, dataset);
  // Nothing is written before all input has been read and found good.
  const bool has_checkpoint = std::filesystem::exists(folder.last_checkpoint());
  if (resume && has_checkpoint) run.restore();
  const FolderLock lock = resume ? folder.go_on(loaded) : folder.begin(loaded, dataset);
  std::fputs(report_text(nlohmann::ordered_json::parse(dataset.report)).c_str(), stderr);
  if (resume && !has_checkpoint) spdlog::info("{} has no checkpoint yet: beginning from the start", path);
  return run.run();
}

}  // namespace itemloom
