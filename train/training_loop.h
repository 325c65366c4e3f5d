// The epochs of a run from wherever it stands: steps, validations, early stopping, checkpoints and reports. How a run
// begins: train/training_run.h.
#pragma once

#include <array>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "core/communicator.h"
#include "data/loader.h"
#include "train/checkpoint.h"
#include "train/checkpoint_writer.h"
#include "train/config.h"
#include "train/event_file.h"
#include "train/kept_checkpoints.h"
#include "train/memory_plan.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/scorers.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace itemloom {

enum class RunOutcome {
  kFinished,  // all epochs, or stopped early
  kStopped,   // SIGINT, SIGTERM or SIGUSR1: the state is saved, and resuming goes on from it
};

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
  void epoch(const nlohmann::json& line, int64_t step, int64_t epochs);

  MetricsLog metrics;
  EventFile events;
  Progress progress;
};

class TrainingLoop {
 public:
  TrainingLoop(const LoadedConfig& loaded, const RunFolder& folder, TrainingData data, Device& device,
               Communicator& communicator);

  // A collective: goes on from the folder's last checkpoint.
  void restore();
  // On rank 0: leaves in the folder the checkpoints that are to be kept.
  void take_over_checkpoints();
  // A collective, before run(): takes what a step and a validation need, so that a machine that is too small says so
  // then and not in the middle of an epoch.
  void reserve_memory(const MemoryPlan& plan);
  // A collective: trains until the last epoch, an early stop or a signal. Throws as train_run().
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

}  // namespace itemloom
