#include "train/training_run.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/files.h"
#include "core/parallel.h"
#include "core/stopwatch.h"
#include "data/prepare.h"
#include "data/report.h"
#include "optim/schedule.h"
#include "train/checkpoint_writer.h"
#include "train/config_fingerprint.h"
#include "train/evaluate.h"
#include "train/event_file.h"
#include "train/kept_checkpoints.h"
#include "train/memory_plan.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace itemloom {
namespace {

std::atomic<bool> asked_to_stop{false};

// From now on SIGINT, SIGTERM and SIGUSR1 (which mpirun hands on to the ranks, where it kills them at SIGTERM) ask the
// run to stop at the next step. A second SIGINT, of a person, ends it at once, as by default. The others may come again
// until the process has ended, as SIGTERM does at a time limit of Slurm: they must not cost the state that is saved
// then, nor the good exit of a rank that another one has already stopped.
void stop_at_signals() {
  asked_to_stop = false;
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    struct sigaction action {};
    action.sa_handler = [](int) { asked_to_stop = true; };
    action.sa_flags = SA_RESTART | (number == SIGINT ? static_cast<int>(SA_RESETHAND) : 0);
    sigaction(number, &action, nullptr);
  }
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

// Seconds of this rank's steps, for the run card.
struct StepSeconds {
  double compute = 0, communication = 0, update = 0, data_wait = 0;
  int64_t steps = 0;
};

// From where a batch is asked for to where it is there, as the device comes by: a GPU that has other work until then
// was not kept waiting.
struct DataWait {
  explicit DataWait(Device& device) : asked(device), there(device) {}
  DeviceMark asked, there;
};

// Where rank 0 tells of the run.
struct Reports {
  Reports(const RunFolder& folder, const RunState& state)
      : metrics(folder.metrics(), state.epoch), events(folder.path(), state.step) {}

  // After an epoch, with its line of metrics.jsonl.
  void epoch(const nlohmann::json& line, int64_t step, int64_t epochs) {
    metrics.append(line);
    std::vector<std::pair<std::string, double>> scalars;
    for (const auto& [name, value] : line.items()) {
      if (value.is_number() && name != "epoch" && name != "step") scalars.emplace_back("training/" + name, value);
    }
    for (const char* group : {"step_milliseconds", "graph_pieces", "validation"}) {
      if (!line.contains(group)) continue;
      for (const auto& [name, value] : line[group].items())
        scalars.emplace_back(std::string(group) + "/" + name, value);
    }
    events.write(step, scalars);
    progress.epoch(line, epochs);
  }

  MetricsLog metrics;
  EventFile events;
  Progress progress;
};

class TrainingRun {
 public:
  TrainingRun(const LoadedConfig& loaded, const RunFolder& folder, TrainingData data, Device& device,
              Communicator& communicator)
      : config_(loaded.values),
        folder_(folder),
        communicator_(communicator),
        device_(device),
        data_(std::move(data)),
        instance_(device_, config_.model, data_.dataset.item_count(), config_.data.max_length, seed(), communicator,
                  config_.optimizer.sharded),
        loader_(data_.dataset.items, training_windows(data_, config_.data),
                Masking(config_.masking, seed(), data_.dataset.item_count()),
                loader_options(config_, shard_plan(config_.training, communicator))),
        step_(device_, communicator, instance_, config_, total_steps(config_, loader_.batches(0))),
        data_waits_{DataWait(device_), DataWait(device_)},
        scorer_(device_, instance_.model(), config_.data.max_length),
        kept_(folder, config_.training.keep_last, config_.training.keep_best),
        writer_(device_) {}

  void restore();
  // On rank 0: leaves in the folder the checkpoints that are to be kept.
  void take_over_checkpoints();
  // A collective, before run().
  void reserve_memory();
  RunOutcome run();

 private:
  uint64_t seed() const { return static_cast<uint64_t>(config_.training.seed); }
  void save(bool newest, std::optional<double> metric = {});
  void finish_saving();
  CheckpointState checkpoint_state(Vector<float> parameters, const std::vector<Optimizer::Slot>& slots) const;
  bool run_epoch();
  void take_results(TrainingStep::Until until, int64_t batches);
  void take_result(const StepResult& result);
  void finish_epoch();
  double validate(nlohmann::json& line);
  nlohmann::json epoch_line();
  StepSeconds mean_seconds(const StepSeconds& mine);
  PieceGraphs::Counts graph_counts_since(const PieceGraphs::Counts& before);
  void print_run_card();
  bool ended() const;
  bool stopped_early() const;

  const Config& config_;
  RunFolder folder_;
  Communicator& communicator_;
  Device& device_;
  TrainingData data_;
  ModelInstance instance_;
  Loader loader_;
  TrainingStep step_;
  std::array<DataWait, 2> data_waits_;  // of step n in place n % 2, as long as its result was not given
  ModelScorer scorer_;                  // of validations
  RunState state_;
  std::optional<Reports> reports_;  // on rank 0, as the next two are used
  KeptCheckpoints kept_;
  CheckpointWriter writer_;

  std::chrono::steady_clock::time_point epoch_start_;
  int64_t epoch_rows_ = 0, epoch_sequences_ = 0;
  StepSeconds epoch_seconds_, run_seconds_;
  PieceGraphs::Counts epoch_start_graphs_;
  double last_learning_rate_ = 0, last_gradient_norm_ = 0;
};

// All that a checkpoint holds, with views of the parameters' values and the optimizer's state given.
CheckpointState TrainingRun::checkpoint_state(Vector<float> parameters,
                                              const std::vector<Optimizer::Slot>& slots) const {
  CheckpointState state;
  const ParameterStore& store = instance_.parameters();
  state.parameters = tensors_of(store, parameters);
  for (const Optimizer::Slot& slot : slots) {
    const auto tensors = tensors_of(store, slot.values, config_.optimizer.name + "." + slot.name + "/");
    state.optimizer_slots.insert(state.optimizer_slots.end(), tensors.begin(), tensors.end());
  }
  state.texts = {{"config_fingerprint", config_fingerprint(config_)}, {"dataset_hash", data_.dataset.hash}};
  state.integers = {{"epoch", state_.epoch},
                    {"batch", state_.batch},
                    {"step", state_.step},
                    {"optimizer_steps", step_.optimizer().steps()},
                    {"skipped", state_.skipped},
                    {"skipped_in_a_row", state_.skipped_in_a_row},
                    {"masked", state_.masked},
                    {"best_epoch", state_.best_epoch},
                    {"validations_since_best", state_.validations_since_best}};
  state.numbers = {{"loss_sum", state_.loss_sum}, {"best_metric", state_.best_metric}};
  return state;
}

// A collective: the state is gathered on rank 0, which begins to write it: as the newest checkpoint, and as one of the
// best when its validation's metric makes it one.
void TrainingRun::save(bool newest, std::optional<double> metric) {
  communicator_.status().enter(RankPhase::kSaving);
  CheckpointTargets targets;
  if (communicator_.is_first()) {
    targets = kept_.add({.epoch = state_.epoch, .batch = state_.batch, .newest = newest, .metric = metric});
  }
  bool wanted = !targets.empty();
  communicator_.broadcast(&wanted, sizeof wanted);
  if (!wanted) return;
  const bool writes = communicator_.is_first();
  const ParameterStore& store = instance_.parameters();
  together(communicator_, [&] {
    if (!writes) return;
    std::vector<Optimizer::Slot> slots = step_.optimizer().slots();
    // Slices are put together where the gradients are, one buffer after the other.
    if (step_.sharded()) {
      for (Optimizer::Slot& slot : slots) slot.values = store.gradients();
    }
    CheckpointState state = checkpoint_state(store.values(), slots);
    if (metric) state.numbers[KeptCheckpoints::kMetric] = *metric;
    writer_.begin(state);
    writer_.copy_parameters();
  });
  size_t first = 0;
  step_.gather_slots([&](const std::string&, Vector<const float>) {
    if (writes) writer_.copy_optimizer_slots(first, store.infos().size());
    first += store.infos().size();
  });
  if (writes) writer_.write(targets);
}

// A collective: what has been saved is on disk when it returns.
void TrainingRun::finish_saving() {
  communicator_.status().enter(RankPhase::kSaving);
  together(communicator_, [&] { writer_.finish(); });
}

void TrainingRun::take_over_checkpoints() {
  writer_.save({}, kept_.find());
  writer_.finish();
}

// A collective: rank 0 reads the checkpoint and hands it out.
void TrainingRun::restore() {
  HostImage parameters(device_, instance_.parameters().values());
  std::vector<Optimizer::Slot> loaded;
  std::vector<HostBlock> memory;
  CheckpointState saved;
  const int64_t floats = instance_.parameters().size(), bytes = floats * static_cast<int64_t>(sizeof(float));
  together(communicator_, [&] {
    if (!communicator_.is_first()) return;
    for (const Optimizer::Slot& slot : step_.optimizer().slots()) {
      memory.emplace_back(bytes);
      loaded.push_back({slot.name, Vector<float>(reinterpret_cast<float*>(memory.back().data()), floats)});
    }
    saved = checkpoint_state(parameters.floats(), loaded);
    load_checkpoint(folder_.last_checkpoint(), saved);
  });
  communicator_.broadcast(parameters.floats().data(), bytes);
  parameters.upload();
  instance_.values_changed();
  size_t place = 0;
  step_.scatter_slots([&](const std::string&, Vector<float> whole) {
    std::memcpy(whole.data(), loaded[place++].values.data(), static_cast<size_t>(bytes));
  });
  const CheckpointEntries entries = unpack_entries(communicator_.all_gather_text(pack_entries(saved)).front());
  step_.optimizer().set_steps(entries.integers.at("optimizer_steps"));
  state_ = {.epoch = entries.integers.at("epoch"),
            .batch = entries.integers.at("batch"),
            .step = entries.integers.at("step"),
            .skipped = entries.integers.at("skipped"),
            .skipped_in_a_row = entries.integers.at("skipped_in_a_row"),
            .loss_sum = entries.numbers.at("loss_sum"),
            .masked = entries.integers.at("masked"),
            .best_metric = entries.numbers.at("best_metric"),
            .best_epoch = entries.integers.at("best_epoch"),
            .validations_since_best = entries.integers.at("validations_since_best")};
}

bool TrainingRun::stopped_early() const {
  const int64_t patience = config_.training.early_stopping.patience;
  return config_.training.validate_every > 0 && patience > 0 && state_.validations_since_best >= patience;
}

bool TrainingRun::ended() const {
  return state_.epoch >= config_.training.epochs || stopped_early();
}

void TrainingRun::take_result(const StepResult& result) {
  last_learning_rate_ = result.learning_rate;
  last_gradient_norm_ = result.gradient_norm;
  const DataWait& data_wait = data_waits_[static_cast<size_t>(result.step % 2)];
  for (StepSeconds* seconds : {&epoch_seconds_, &run_seconds_}) {
    seconds->compute += result.compute_seconds;
    seconds->communication += result.communication_seconds;
    seconds->update += result.update_seconds;
    seconds->data_wait += data_wait.there.seconds_since(data_wait.asked);
    ++seconds->steps;
  }
  if (!result.skipped) {
    state_.skipped_in_a_row = 0;
    state_.loss_sum += result.loss_sum;
    state_.masked += result.masked;
    return;
  }
  ++state_.skipped;
  ++state_.skipped_in_a_row;
  spdlog::warn("step {} was skipped: the loss or its gradient is not finite", result.step + 1);
  if (state_.skipped_in_a_row <= config_.training.max_skipped_steps) return;
  finish_saving();
  throw SharedError(join_message(
      "the loss or its gradient was not finite ", state_.skipped_in_a_row, " steps in a row, up to step ",
      result.step + 1, " (training.max_skipped_steps is ", config_.training.max_skipped_steps,
      "); lower optimizer.learning_rate, or set optimizer.clip_norm. ",
      std::filesystem::exists(folder_.last_checkpoint()) ? "The last good state is in " + folder_.last_checkpoint()
                                                         : "No state was saved before"));
}

// Steps of an epoch of so many batches are done until then.
void TrainingRun::take_results(TrainingStep::Until until, int64_t batches) {
  while (const std::optional<StepResult> result = step_.result(until)) {
    take_result(*result);
    if (!reports_) continue;
    reports_->progress.step({.epoch = state_.epoch + 1,
                             .epochs = config_.training.epochs,
                             .step = result->batch + 1,
                             .steps = batches,
                             .loss = state_.masked > 0 ? state_.loss_sum / static_cast<double>(state_.masked) : 0,
                             .tokens = result->rows});
  }
}

// Gives false when a signal ended it before its last batch.
bool TrainingRun::run_epoch() {
  epoch_start_ = std::chrono::steady_clock::now();
  epoch_rows_ = epoch_sequences_ = 0;
  epoch_seconds_ = {};
  epoch_start_graphs_ = step_.graph_counts();
  const int64_t batches = loader_.batches(state_.epoch);
  bool stop = false;
  while (!stop && state_.batch < batches) {
    communicator_.status().enter(RankPhase::kWaitingForBatch);
    DataWait& data_wait = data_waits_[static_cast<size_t>(state_.step % 2)];
    data_wait.asked.set();
    const StepBatch& batch = loader_.load(state_.epoch, state_.batch);
    data_wait.there.set();
    epoch_rows_ += batch.rows;
    epoch_sequences_ += batch.sequences;
    stop = step_.run(batch, state_.step, asked_to_stop);
    ++state_.step;
    ++state_.batch;
    take_results(TrainingStep::Until::kWorkIsLeft, batches);
  }
  // From here on the state is that of all steps.
  take_results(TrainingStep::Until::kAllIsDone, batches);
  return state_.batch == batches;
}

double TrainingRun::validate(nlohmann::json& line) {
  communicator_.status().enter(RankPhase::kValidating);
  const auto start = std::chrono::steady_clock::now();
  const EvaluationResult result = evaluate(data_.dataset, data_.split.validation, "validation", config_.evaluation,
                                           {{"model", &scorer_}}, communicator_);
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
  return metric;
}

// Seconds a step, the mean over the ranks. A collective.
StepSeconds TrainingRun::mean_seconds(const StepSeconds& mine) {
  double sums[] = {mine.compute, mine.communication, mine.update, mine.data_wait};
  communicator_.all_reduce_sum(Vector<double>(sums, 4));
  const double divisor = static_cast<double>(std::max<int64_t>(mine.steps, 1) * communicator_.size());
  return {sums[0] / divisor, sums[1] / divisor, sums[2] / divisor, sums[3] / divisor, mine.steps};
}

// Of all ranks. A collective.
PieceGraphs::Counts TrainingRun::graph_counts_since(const PieceGraphs::Counts& before) {
  const PieceGraphs::Counts now = step_.graph_counts();
  int64_t sums[] = {now.eager - before.eager, now.captured - before.captured, now.replayed - before.replayed,
                    now.launches - before.launches};
  communicator_.all_reduce_sum(Vector<int64_t>(sums, 4));
  return {.eager = sums[0], .captured = sums[1], .replayed = sums[2], .launches = sums[3]};
}

nlohmann::json TrainingRun::epoch_line() {
  const double seconds = seconds_since(epoch_start_);
  const StepSeconds means = mean_seconds(epoch_seconds_);
  nlohmann::json line = {{"epoch", state_.epoch + 1},
                         {"step", state_.step},
                         {"loss", state_.masked > 0 ? state_.loss_sum / static_cast<double>(state_.masked) : 0},
                         {"seconds", seconds},
                         {"tokens_per_second", static_cast<double>(epoch_rows_) / seconds},
                         {"sequences_per_second", static_cast<double>(epoch_sequences_) / seconds},
                         {"learning_rate", last_learning_rate_},
                         {"gradient_norm", last_gradient_norm_},
                         {"skipped_steps", state_.skipped},
                         {"step_milliseconds",
                          {{"compute", 1e3 * means.compute},
                           {"communication", 1e3 * means.communication},
                           {"update", 1e3 * means.update},
                           {"data_wait", 1e3 * means.data_wait}}}};
  if (config_.training.cuda_graphs) {
    const PieceGraphs::Counts pieces = graph_counts_since(epoch_start_graphs_);
    line["graph_pieces"] = {{"eager", pieces.eager}, {"captured", pieces.captured}, {"replayed", pieces.replayed}};
  }
  return line;
}

void TrainingRun::finish_epoch() {
  nlohmann::json line = epoch_line();
  ++state_.epoch;
  state_.batch = 0;
  state_.loss_sum = 0;
  state_.masked = 0;
  const int64_t validate_every = config_.training.validate_every;
  std::optional<double> metric;
  if (validate_every > 0 && (state_.epoch % validate_every == 0 || state_.epoch == config_.training.epochs)) {
    metric = validate(line);
  }
  if (reports_) reports_->epoch(line, state_.step, config_.training.epochs);
  const int64_t checkpoint_every = config_.training.checkpoint_every;
  save(ended() || (checkpoint_every > 0 && state_.epoch % checkpoint_every == 0), metric);
}

// Where the time of the steps went and what a rank needs. A collective.
void TrainingRun::print_run_card() {
  const StepSeconds means = mean_seconds(run_seconds_);
  const PieceGraphs::Counts pieces = config_.training.cuda_graphs ? graph_counts_since({}) : PieceGraphs::Counts();
  if (!communicator_.is_first() || means.steps == 0) return;
  const double step = means.compute + means.communication + means.update + means.data_wait;
  auto part = [&](double seconds) { return fmt::format("{:.2f} ms ({:.1f} %)", 1e3 * seconds, 100 * seconds / step); };
  spdlog::info("{} steps of {:.2f} ms: compute {}, exposed communication {}, update {}, data wait {}", means.steps,
               1e3 * step, part(means.compute), part(means.communication), part(means.update), part(means.data_wait));
  if (config_.training.cuda_graphs) {
    spdlog::info("graphs: {} pieces replayed, {} captured, {} eager; {} launches of graphs", pieces.replayed,
                 pieces.captured, pieces.eager, pieces.launches);
  }
  const double megabyte = 1 << 20;
  const double buffer = static_cast<double>(instance_.parameters().size()) * sizeof(float) / megabyte;
  spdlog::info(
      "memory of rank 0: parameters {:.1f} MB, gradients {:.1f} MB, optimizer state {:.1f} MB, activations {:.1f} MB",
      buffer, buffer, static_cast<double>(step_.optimizer().state_bytes()) / megabyte,
      static_cast<double>(step_.arena_bytes()) / megabyte);
}

// A machine that is too small is to say so before the first step, not in the middle of an epoch.
void TrainingRun::reserve_memory() {
  const MemoryPlan plan = plan_memory(config_, training_windows(data_, config_.data), data_.dataset.item_count(),
                                      ranking_cases(data_.dataset, data_.split.validation), communicator_);
  const auto reserve = [](const char* what, int64_t bytes, const std::string& keys, FunctionRef<void()> take) {
    try {
      take();
    } catch (const Error& error) {
      fail(what, " need ", bytes >> 20, " MiB: ", error.what(), ", or lower ", keys);
    }
  };
  const std::string step_keys =
      join_message("training.micro_batch_tokens (", piece_tokens_on(device_.kind(), config_.training),
                   " here), training.batch_size");
  together(communicator_, [&] {
    reserve("the activations of the largest step", plan.activations, step_keys + " or data.max_length",
            [&] { step_.reserve(plan.activations); });
    reserve("the scores and layers of a validation", plan.validation.total(), "evaluation.batch_size",
            [&] { scorer_.reserve(plan.validation); });
    reserve("the kernels of training and validation", plan.scratch, step_keys + " or training.threads",
            [&] { device_.reserve_scratch(plan.scratch); });
  });
}

RunOutcome TrainingRun::run() {
  if (ended()) {
    spdlog::info("{} is finished: {} epochs", folder_.path(), state_.epoch);
    return RunOutcome::kFinished;
  }
  spdlog::info("{} items, {} training sequences, {} parameters; {} rank{} by {}, {} thread{}, kernels {}",
               data_.dataset.item_count(), loader_.windows(), instance_.parameters().count(), communicator_.size(),
               communicator_.size() > 1 ? "s" : "", communicator_.transport(), thread_count(),
               thread_count() > 1 ? "s each" : "", cpu_kernels());
  if (const std::string unasked = unasked_text(data_.split); !unasked.empty()) spdlog::info("{}", unasked);
  stop_at_signals();
  if (communicator_.is_first()) reports_.emplace(folder_, state_);
  while (!ended()) {
    if (!run_epoch()) {
      save(true);
      finish_saving();
      print_run_card();
      return RunOutcome::kStopped;
    }
    finish_epoch();
  }
  finish_saving();
  if (stopped_early()) {
    spdlog::info("stopped after epoch {}: {} is best at epoch {} ({:.5f})", state_.epoch,
                 config_.training.early_stopping.metric, state_.best_epoch, state_.best_metric);
  }
  print_run_card();
  return RunOutcome::kFinished;
}

void check_same_run(const LoadedConfig& loaded, const RunFolder& folder) {
  const std::string difference = first_deciding_difference(loaded.values, load_config(folder.config(), {}).values);
  CHECK(difference.empty(), "--resume: ", folder.path(), " was begun with another config: ", difference,
        "; give the values it was begun with, or another --run");
}

// The folder and the data of a run, as rank 0 has them; the other ranks read what it has written there.
class RunStart {
 public:
  RunStart(const LoadedConfig& loaded, const RunFolder& folder, bool resume, Device& device, Communicator& communicator)
      : loaded_(loaded), folder_(folder), resume_(resume), device_(device), communicator_(communicator) {}

  // On rank 0: reads and checks everything before the folder of a new run is made.
  void begin() {
    if (resume_) {
      CHECK(folder_.holds_run(), "--resume: ", folder_.path(), " holds no run");
      // Before anything of it is read, which another process may be changing.
      lock_.emplace(folder_.path());
      check_same_run(loaded_, folder_);
    } else {
      folder_.check_holds_no_run();
      check_folder_can_be_made(folder_.path());
    }
    const DataConfig& config = loaded_.values.data;
    data_ = make_training_data(resume_ ? run_dataset(folder_, config) : prepare(config), config, communicator_);
    check_plan(loaded_.values, *data_, communicator_);
    report_ = data_->dataset.report;
    has_checkpoint_ = resume_ && std::filesystem::exists(folder_.last_checkpoint());
    if (!resume_) lock_.emplace(folder_.begin(loaded_, data_->dataset));
  }

  // On the other ranks. The first one of a host verifies the file for all of them.
  void join() {
    const DataConfig& config = loaded_.values.data;
    const std::string path = has_own_dataset(config) ? folder_.dataset() : config.files.front();
    try {
      if (communicator_.local_rank() == 0) load_dataset(path);
      data_ = make_training_data(load_dataset(path, DatasetUse::kTraining), config, communicator_);
    } catch (const Error& error) {
      fail(error.what(),
           " (all hosts need the same files: keep --run and data.files where each of them can read them)");
    }
    make_folder(folder_.path());
    log_to_file(folder_.rank_log(communicator_.rank()));
  }

  RunOutcome run() {
    communicator_.broadcast(&has_checkpoint_, sizeof has_checkpoint_);
    check_same_dataset(communicator_, data_->dataset);
    TrainingRun run(loaded_, folder_, std::move(*data_), device_, communicator_);
    if (has_checkpoint_) run.restore();
    together(communicator_, [&] {
      if (!resume_ || !communicator_.is_first()) return;
      folder_.go_on(loaded_);
      run.take_over_checkpoints();
    });
    if (communicator_.is_first()) {
      std::fputs(report_text(nlohmann::ordered_json::parse(report_)).c_str(), stderr);
      if (resume_ && !has_checkpoint_)
        spdlog::info("{} has no checkpoint yet: beginning from the start", folder_.path());
    }
    try {
      run.reserve_memory();
    } catch (const Error&) {
      // What is to be changed decides results: the folder must not hold to the config as it was.
      if (!resume_ && communicator_.is_first()) folder_.take_back();
      throw;
    }
    return run.run();
  }

 private:
  const LoadedConfig& loaded_;
  const RunFolder& folder_;
  bool resume_;
  Device& device_;
  Communicator& communicator_;
  std::optional<TrainingData> data_;
  std::optional<FolderLock> lock_;
  std::string report_;
  bool has_checkpoint_ = false;
};

}  // namespace

RunOutcome train_run(const LoadedConfig& loaded, const std::string& path, bool resume, Communicator& communicator) {
  communicator.status().enter(RankPhase::kReadingData);
  check_same_config(communicator, loaded);
  use_threads(loaded.values.training, communicator);
  const RunFolder folder(path);
  // Before anything is read or written: a GPU that is not there is soon said.
  std::optional<Device> device;
  together(communicator, [&] {
    const DeviceKind kind = device_kind(loaded.values.device);
    device.emplace(kind, communicator.local_rank(), precision_on(kind, loaded.values.training));
    check_graphs(loaded.values.training, *device);
  });
  check_own_gpus(communicator, *device);
  RunStart start(loaded, folder, resume, *device, communicator);
  together(communicator, [&] {
    if (communicator.is_first()) start.begin();
  });
  together(communicator, [&] {
    if (!communicator.is_first()) start.join();
  });
  return start.run();
}

}  // namespace itemloom
