#include "train/training_loop.h"

#include <spdlog/spdlog.h>

#include <cstring>
#include <filesystem>

#include "core/parallel.h"
#include "core/stopwatch.h"
#include "optim/schedule.h"
#include "train/config_fingerprint.h"
#include "train/evaluate.h"
#include "train/stop_signals.h"

namespace itemloom {

void Reports::epoch(const nlohmann::json& line, int64_t step, int64_t epochs) {
  metrics.append(line);
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [name, value] : line.items()) {
    if (value.is_number() && name != "epoch" && name != "step") scalars.emplace_back("training/" + name, value);
  }
  for (const char* group : {"step_milliseconds", "graph_pieces", "validation"}) {
    if (!line.contains(group)) continue;
    for (const auto& [name, value] : line[group].items()) scalars.emplace_back(std::string(group) + "/" + name, value);
  }
  events.write(step, scalars);
  progress.epoch(line, epochs);
}

TrainingLoop::TrainingLoop(const LoadedConfig& loaded, const RunFolder& folder, TrainingData data, Device& device,
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

// All that a checkpoint holds, with views of the parameters' values and the optimizer's state given.
CheckpointState TrainingLoop::checkpoint_state(Vector<float> parameters,
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
void TrainingLoop::save(bool newest, std::optional<double> metric) {
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
void TrainingLoop::finish_saving() {
  communicator_.status().enter(RankPhase::kSaving);
  together(communicator_, [&] { writer_.finish(); });
}

void TrainingLoop::take_over_checkpoints() {
  writer_.save({}, kept_.find());
  writer_.finish();
}

// A collective: rank 0 reads the checkpoint and hands it out.
void TrainingLoop::restore() {
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

bool TrainingLoop::stopped_early() const {
  const int64_t patience = config_.training.early_stopping.patience;
  return config_.training.validate_every > 0 && patience > 0 && state_.validations_since_best >= patience;
}

bool TrainingLoop::ended() const {
  return state_.epoch >= config_.training.epochs || stopped_early();
}

void TrainingLoop::take_result(const StepResult& result) {
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
void TrainingLoop::take_results(TrainingStep::Until until, int64_t batches) {
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
bool TrainingLoop::run_epoch() {
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
    stop = step_.run(batch, state_.step, asked_to_stop());
    ++state_.step;
    ++state_.batch;
    take_results(TrainingStep::Until::kWorkIsLeft, batches);
  }
  // From here on the state is that of all steps.
  take_results(TrainingStep::Until::kAllIsDone, batches);
  return state_.batch == batches;
}

double TrainingLoop::validate(nlohmann::json& line) {
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
StepSeconds TrainingLoop::mean_seconds(const StepSeconds& mine) {
  double sums[] = {mine.compute, mine.communication, mine.update, mine.data_wait};
  communicator_.all_reduce_sum(Vector<double>(sums, 4));
  const double divisor = static_cast<double>(std::max<int64_t>(mine.steps, 1) * communicator_.size());
  return {sums[0] / divisor, sums[1] / divisor, sums[2] / divisor, sums[3] / divisor, mine.steps};
}

// Of all ranks. A collective.
PieceGraphs::Counts TrainingLoop::graph_counts_since(const PieceGraphs::Counts& before) {
  const PieceGraphs::Counts now = step_.graph_counts();
  int64_t sums[] = {now.eager - before.eager, now.captured - before.captured, now.replayed - before.replayed,
                    now.launches - before.launches};
  communicator_.all_reduce_sum(Vector<int64_t>(sums, 4));
  return {.eager = sums[0], .captured = sums[1], .replayed = sums[2], .launches = sums[3]};
}

nlohmann::json TrainingLoop::epoch_line() {
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

void TrainingLoop::finish_epoch() {
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
void TrainingLoop::print_run_card() {
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

void TrainingLoop::reserve_memory(const MemoryPlan& plan) {
  const std::string step_keys =
      join_message("training.micro_batch_tokens (", piece_tokens_on(device_.kind(), config_.training),
                   " here), training.batch_size");
  together(communicator_, [&] {
    take_planned("the activations of the largest step", plan.activations, step_keys + " or data.max_length",
                 [&] { step_.reserve(plan.activations); });
    take_planned("the scores and layers of a validation", plan.validation.total(), "evaluation.batch_size",
                 [&] { scorer_.reserve(plan.validation); });
    const std::string scratch_keys = device_.cuda() ? step_keys : step_keys + " or training.threads";
    take_planned("the kernels of training and validation", plan.scratch, scratch_keys,
                 [&] { device_.reserve_scratch(plan.scratch); });
  });
}

RunOutcome TrainingLoop::run() {
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

}  // namespace itemloom
