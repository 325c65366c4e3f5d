#include "train/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/arena.h"
#include "core/tape.h"
#include "kernels/attention.h"
#include "optim/optimizer.h"
#include "train/gradient_sync.h"
#include "train/trainer.h"
#include "train/training_data.h"

namespace itemloom {
namespace {

// Rows of so many sequences, the first of which holds what is left over, and so many of the rows masked.
PackedBatch piece_of(int64_t rows, int64_t sequences, int64_t masked) {
  PackedBatch piece;
  piece.clear();
  const auto size = static_cast<size_t>(rows);
  piece.items.resize(size);
  piece.positions.resize(size);
  piece.row_ids.resize(size);
  piece.sequence_offsets.resize(static_cast<size_t>(sequences) + 1);
  std::iota(piece.sequence_offsets.begin() + 1, piece.sequence_offsets.end(), rows - sequences + 1);
  piece.masked_rows.resize(static_cast<size_t>(masked));
  std::iota(piece.masked_rows.begin(), piece.masked_rows.end(), 0);
  piece.masked_row_ids.resize(static_cast<size_t>(masked));
  piece.targets.resize(static_cast<size_t>(masked));
  return piece;
}

// Of the largest piece of a batch. All of its rows are masked but one: were all of them, gradients of masked rows would
// take the memory of those of rows, which have other sizes as a rule.
int64_t activation_bytes(Device& device, const Bert4Rec& model, int64_t rows, bool graphs) {
  const PackedBatch piece = piece_of(rows, rows, rows > 1 ? rows - 1 : rows);
  Arena arena(DeviceKind::kPlanning);
  Tape tape(device, arena, Mode::kTraining);
  if (graphs) put_step_on_device(tape, 0);
  model.loss(tape, model_input(tape, piece), tape.on_device(piece.targets));
  tape.backward();
  return arena.used();
}

ScorerMemory ranking_memory(Device& device, const Bert4Rec& model, const Config& config,
                            std::span<const RankingCase> cases) {
  if (cases.empty()) return {};
  const RankingTile tile = largest_ranking_tile(device, cases, model.items(), config.evaluation.batch_size);
  const int64_t rows = ModelScorer::most_rows(tile.rows, config.data.max_length);
  const int64_t histories = std::min(tile.rows, rows);
  const PackedBatch piece = piece_of(rows, histories, histories);
  Arena arena(DeviceKind::kPlanning);
  Tape tape(device, arena, Mode::kInference);
  model.encode(tape, model_input(tape, piece));
  const Matrix<float> scores(nullptr, tile.rows, model.items());
  const Matrix<const float> table = model.output_table(), hidden(nullptr, tile.rows, table.columns());
  run(device, ModelScorer::product(hidden, model, scores));
  return {.tile = tile.bytes, .hidden = hidden.size() * static_cast<int64_t>(sizeof(float)), .layers = arena.used()};
}

// Of the rank that has most of it.
int64_t optimizer_bytes(Device& device, const Config& config, const ParameterStore& store, int ranks) {
  if (!config.optimizer.sharded || ranks == 1) return Optimizer(config.optimizer, store, device).state_bytes();
  int64_t most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<FlatRange> shares = bucket_shares(store.size(), rank, ranks);
    most = std::max(most, Optimizer(config.optimizer, store, device, shares).state_bytes());
  }
  return most;
}

std::string megabytes(int64_t bytes) {
  return fmt::format("{:10.1f} MB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

MemoryPlan plan_memory(const Config& config, const Windows& windows, int64_t items,
                       std::span<const RankingCase> validation, const Communicator& communicator) {
  const ShardPlan shards = shard_plan(config.training, communicator);
  const BatchBounds bounds = batch_bounds(windows, loader_options(config, shards));
  const DeviceKind kind = device_kind(config.device);
  Device device = Device::planning(kind, precision_on(kind, config.training));
  ModelInstance instance(device, config.model, items, config.data.max_length, 0);
  const ParameterStore& store = instance.parameters();
  const int64_t buffer = store.size() * static_cast<int64_t>(sizeof(float));
  const int64_t rounded =
      config.training.gradient_exchange == "bf16" ? GradientSync::rounded_bytes(store.size(), communicator.size()) : 0;
  MemoryPlan plan{
      .parameters = buffer + store.bf16_values().size() * static_cast<int64_t>(sizeof(Bf16)),
      .gradients = buffer * (1 + shards.waiting_gradients()) + rounded,
      .optimizer_state = optimizer_bytes(device, config, store, communicator.size()),
      .activations = activation_bytes(device, instance.model(), bounds.piece_rows, config.training.cuda_graphs),
      .validation = config.training.validate_every > 0 ? ranking_memory(device, instance.model(), config, validation)
                                                       : ScorerMemory(),
      .scratch = 0,
      .libraries = kind == DeviceKind::kCuda ? cuda_backend::kBlasWorkspaceBytes : 0};
  plan.scratch = device.scratch_size();
  if (kind == DeviceKind::kCpu) {
    int64_t longest = windows.longest();
    for (const RankingCase& one : validation) longest = std::max(longest, one.history.size() + 1);
    const int64_t attention = attention_scratch_bytes(device.cpu_stream(), config.model.hidden_size, config.model.heads,
                                                      std::min(longest, config.data.max_length));
    plan.scratch = std::max(plan.scratch, attention);
  }
  return plan;
}

void take_planned(const char* what, int64_t bytes, const std::string& keys, FunctionRef<void()> take) {
  try {
    take();
  } catch (const Error& error) {
    fail(what, " need ", bytes >> 20, " MiB: ", error.what(), ", or lower ", keys);
  }
}

std::string MemoryPlan::text() const {
  return fmt::format(
      "parameters       {}\ngradients        {}\noptimizer state  {}\nactivations      {}\nvalidation       {}\n"
      "workspace        {}\ntogether         {}\n",
      megabytes(parameters), megabytes(gradients), megabytes(optimizer_state), megabytes(activations),
      megabytes(validation.total()), megabytes(workspace()), megabytes(total()));
}

}  // namespace itemloom
