// One optimizer step on one page, and the model it trains. Epochs, validation and checkpoints: train/training_loop.h.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/parameters.h"
#include "data/loader.h"
#include "layers/models/bert4rec.h"
#include "optim/optimizer.h"
#include "train/config.h"
#include "train/gradient_sync.h"
#include "train/piece_graphs.h"

namespace itemloom {

// A model with its parameters, on a device.
class ModelInstance {
 public:
  // A model on its own; without `gradients` it can only be asked.
  ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed,
                bool gradients = true);
  // A rank's model, whose gradients meet those of the other ranks; with `shared_values` its parameters do, too.
  ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed,
                Communicator& communicator, bool shared_values);

  const Bert4Rec& model() const { return model_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }
  // To be called after parameters' values have changed: brings their copy in bf16, where there is one, up to date.
  void values_changed();
  ExchangeBuffer& values() { return *values_; }
  ExchangeBuffer& gradients() {
    CHECK(gradients_, "this model has no gradients");
    return *gradients_;
  }

 private:
  ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed,
                Communicator& communicator, bool shared_values, bool gradients);

  Device& device_;
  ParameterStore parameters_;
  Bert4Rec model_;
  std::unique_ptr<ExchangeBuffer> values_, gradients_;
};

// A packed batch as the model sees it, on the tape's device.
MaskedBatch model_input(Tape& tape, const PackedBatch& batch);

// The number of a step on the tape's device, from where its dropout masks take it: for graphs.
void put_step_on_device(Tape& tape, int64_t step);

struct StepResult {
  int64_t step = 0;          // its number, from 0
  int64_t batch = 0;         // its place in the epoch
  int64_t rows = 0;          // of the whole batch
  double loss_sum = 0;       // over the masked rows of the whole batch
  int64_t masked = 0;        // their number
  double gradient_norm = 0;  // of the mean loss, before clipping
  double learning_rate = 0;
  bool skipped = false;  // the loss or a gradient was not finite; parameters are as before
  // Of this rank's device: forward and backward, waiting for gradients after it, and the optimizer with what it shares.
  double compute_seconds = 0, communication_seconds = 0, update_seconds = 0;
};

// How many shards of a batch there are and which are this rank's (LoaderOptions). With training.bitwise_across_ranks
// training.gradient_shards, which a number of ranks divides evenly; else one a rank.
struct ShardPlan {
  int shards, first_shard, local_shards;

  // How many gradients may wait for those of other local shards, which are summed in a tree of so many levels.
  int waiting_gradients() const { return std::bit_width(static_cast<unsigned>(local_shards)) - 1; }
};
ShardPlan shard_plan(const TrainingConfig& config, const Communicator& communicator);

// Forward, backward and update for one batch, by all ranks together. The gradient is a tree sum over the shards of the
// batch, of which each rank computes its own; the loss's sum and the number of masked rows are summed over the ranks,
// and that number divides once, in the optimizer. So every rank ends a step with the same parameters, to the bit.
//
// A GPU works behind the host's back: run() tells it what to do and does not wait for it, and what came of the step is
// asked for when the next one has been told, so that it never runs out of work. The CPU has done a step when it
// returns.
class TrainingStep {
 public:
  TrainingStep(Device& device, Communicator& communicator, ModelInstance& instance, const Config& config,
               int64_t total_steps);

  // `step` is 0-based and counts every batch, skipped ones too: it names dropout masks and the schedule's place. Gives
  // whether a rank was asked to stop, the same on all ranks. The results of all steps but one must have been given.
  bool run(const StepBatch& batch, int64_t step, bool asked_to_stop = false);

  // What came of the first step whose result was not given yet, if there is one, once it is done. Until kWorkIsLeft the
  // step that a GPU was told last is not waited for.
  enum class Until { kWorkIsLeft, kAllIsDone };
  std::optional<StepResult> result(Until until);

  Optimizer& optimizer() { return optimizer_; }
  const Optimizer& optimizer() const { return optimizer_; }
  // Whether the optimizer's state is in slices over the ranks.
  bool sharded() const { return sharded_; }
  // Takes at once the memory that a step's activations may need.
  void reserve(int64_t bytes) { arena_.reserve(bytes); }
  int64_t arena_bytes() const { return arena_.reserved(); }
  // What graphs did for the pieces so far; all zero without training.cuda_graphs.
  PieceGraphs::Counts graph_counts() const { return graphs_ ? graphs_->counts() : PieceGraphs::Counts(); }

  // Collectives. The whole of each state buffer of the optimizer, laid out as the parameters, is handed to `take` in
  // turn, in the memory of the device, valid during the call; and is taken, on each rank, from what `give` has put in
  // on rank 0.
  void gather_slots(FunctionRef<void(const std::string& name, Vector<const float> values)> take);
  void scatter_slots(FunctionRef<void(const std::string& name, Vector<float> values)> give);

 private:
  void compute_shards(const StepBatch& batch, int64_t step);
  void compute_shard(const StepBatch& batch, size_t shard, int64_t step);
  void compute_piece(const PackedBatch& piece, int64_t step, Vector<double> loss_sum, bool reports);
  void fold_shard(size_t shard, size_t shards);
  Vector<double> losses() const { return losses_.as<double>(plan_.shards); }
  void gather(ExchangeBuffer& buffer);
  void share_values();

  // A step whose result was not given yet.
  struct Told {
    explicit Told(Device& device);
    StepResult result;  // what the host knows of it
    DeviceMark begun, computed, reduced, done;
    PinnedBlock decision;
  };

  Device& device_;
  Communicator& communicator_;
  ModelInstance& instance_;
  const Config& config_;
  int64_t total_steps_;
  ShardPlan plan_;
  bool sharded_;
  GradientSync sync_;
  Optimizer optimizer_;
  Arena arena_;
  std::optional<PieceGraphs> graphs_;
  std::vector<DeviceBlock> partials_;  // gradients of 2^level shards that wait for those of the next as many
  DeviceBlock losses_;                 // by shard of the whole batch
  std::array<Told, 2> told_;           // step n is in place n % 2
  int64_t steps_told_ = 0, results_given_ = 0;
};

}  // namespace itemloom
