#include "train/memory_plan.h"

#include <fmt/format.h>

#include <numeric>

#include "core/arena.h"
#include "core/tape.h"
#include "kernels/masked_item_loss.h"
#include "optim/optimizer.h"
#include "train/gradient_sync.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace itemloom {
namespace {

// Sequences of one item, and all masked but one: were all of them, gradients of masked rows would take the memory of
// those of rows, which have other sizes as a rule.
PackedBatch largest_piece(int64_t rows) {
  PackedBatch piece;
  piece.clear();
  const auto size = static_cast<size_t>(rows);
  piece.items.resize(size);
  piece.positions.resize(size);
  piece.row_ids.resize(size);
  piece.sequence_offsets.resize(size + 1);
  std::iota(piece.sequence_offsets.begin(), piece.sequence_offsets.end(), 0);
  const auto masked = static_cast<size_t>(rows > 1 ? rows - 1 : rows);
  piece.masked_rows.resize(masked);
  std::iota(piece.masked_rows.begin(), piece.masked_rows.end(), 0);
  piece.masked_row_ids.resize(masked);
  piece.targets.resize(masked);
  return piece;
}

int64_t activation_bytes(Device& device, const Bert4Rec& model, const PackedBatch& piece, bool graphs) {
  Arena arena(DeviceKind::kPlanning);
  Tape tape(device, arena, Mode::kTraining);
  if (graphs) put_step_on_device(tape, 0);
  model.loss(tape, model_input(tape, piece), tape.on_device(piece.targets));
  tape.backward();
  return arena.used();
}

int64_t workspace_bytes(const Config& config, int64_t rows, int64_t items) {
  if (config.device != "cuda") return 0;
  const LossTile tile =
      config.training.precision == "bf16" ? loss_tile<Bf16>(rows, items) : loss_tile<float>(rows, items);
  // Scratch grows by a quarter more than it is asked for.
  return cuda_backend::kBlasWorkspaceBytes + tile.bytes * 5 / 4;
}

std::string megabytes(int64_t bytes) {
  return fmt::format("{:10.1f} MB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

MemoryPlan plan_memory(const Config& config, const Windows& windows, int64_t items, const Communicator& communicator) {
  const ShardPlan shards = shard_plan(config.training, communicator);
  const BatchBounds bounds = batch_bounds(windows, loader_options(config, shards));
  const DeviceKind kind = device_kind(config.device);
  Device device(DeviceKind::kPlanning, 0, precision_on(kind, config.training));
  ModelInstance instance(device, config.model, items, config.data.max_length, 0);
  const ParameterStore& store = instance.parameters();
  const int64_t buffer = store.size() * static_cast<int64_t>(sizeof(float));
  const bool sharded = config.optimizer.sharded && communicator.size() > 1;
  const Optimizer optimizer =
      sharded ? Optimizer(config.optimizer, store, device,
                          {share_of({0, store.size()}, communicator.size() - 1, communicator.size())})
              : Optimizer(config.optimizer, store, device);
  const int64_t rounded =
      config.training.gradient_exchange == "bf16" ? GradientSync::rounded_bytes(store.size(), communicator.size()) : 0;
  const PackedBatch piece = largest_piece(bounds.piece_rows);
  return {.parameters = buffer + store.bf16_values().size() * static_cast<int64_t>(sizeof(Bf16)),
          .gradients = buffer * (1 + shards.waiting_gradients()) + rounded,
          .optimizer_state = optimizer.state_bytes(),
          .activations = activation_bytes(device, instance.model(), piece, config.training.cuda_graphs),
          .workspace = workspace_bytes(config, bounds.piece_rows, items)};
}

std::string MemoryPlan::text() const {
  return fmt::format(
      "parameters       {}\ngradients        {}\noptimizer state  {}\nactivations      {}\nworkspace        {}\n"
      "together         {}\n",
      megabytes(parameters), megabytes(gradients), megabytes(optimizer_state), megabytes(activations),
      megabytes(workspace), megabytes(total()));
}

}  // namespace itemloom
