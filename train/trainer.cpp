#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>

#include "kernels/elementwise.h"
#include "optim/schedule.h"

namespace itemloom {
namespace {

using Clock = std::chrono::steady_clock;

// Seconds since the last call.
class Lap {
 public:
  double operator()() {
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  Clock::time_point last_ = Clock::now();
};

// What the ranks tell each other once a step.
struct StepTotals {
  double loss_sum;
  int64_t masked;
  int64_t stop;
};

StepTotals sum_totals(Communicator& communicator, const StepTotals& mine) {
  if (communicator.size() == 1) return mine;
  std::vector<StepTotals> all(static_cast<size_t>(communicator.size()));
  communicator.all_gather(&mine, sizeof mine, all.data());
  std::vector<double> losses;
  std::vector<const double*> sources;
  StepTotals totals{0, 0, 0};
  for (const StepTotals& one : all) {
    losses.push_back(one.loss_sum);
    totals.masked += one.masked;
    totals.stop += one.stop;
  }
  for (const double& loss : losses) sources.push_back(&loss);
  tree_sum(sources.data(), communicator.size(), 1, &totals.loss_sum);
  return totals;
}

std::unique_ptr<ExchangeBuffer> make_buffer(Device& device, Communicator& communicator, int64_t floats) {
  if (device.cuda()) return cuda_backend::make_exchange_buffer(*device.cuda(), communicator, floats);
  return communicator.make_exchange_buffer(floats);
}

}  // namespace

ModelInstance::ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length,
                             uint64_t seed)
    : ModelInstance(device, config, items, max_length, seed, *make_self_communicator(), false) {}

ModelInstance::ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length,
                             uint64_t seed, Communicator& communicator, bool shared_values)
    : device_(device), model_(Scope(parameters_), config, items, max_length) {
  const int64_t floats = parameters_.size();
  values_ = make_buffer(device, shared_values ? communicator : *make_self_communicator(), floats);
  gradients_ = make_buffer(device, communicator, floats);
  parameters_.allocate(device, seed, values_->values(), gradients_->values());
}

void ModelInstance::values_changed() {
  const Vector<Bf16> copy = parameters_.bf16_values();
  if (copy) run(device_, Convert<float, Bf16>{.x = parameters_.values(), .y = copy});
}

MaskedBatch model_input(Tape& tape, const PackedBatch& batch) {
  // Here, because no op can read them where they go.
  CHECK(!batch.sequence_offsets.empty() && batch.sequence_offsets.back() == batch.rows(),
        "the sequences of a batch do not end with its ", batch.rows(), " rows");
  return MaskedBatch{.items = tape.on_device(batch.items),
                     .positions = tape.on_device(batch.positions),
                     .sequence_offsets = tape.on_device(batch.sequence_offsets),
                     .row_ids = tape.on_device(batch.row_ids),
                     .masked_rows = tape.on_device(batch.masked_rows),
                     .masked_row_ids = tape.on_device(batch.masked_row_ids)};
}

ShardPlan shard_plan(const TrainingConfig& config, const Communicator& communicator) {
  const int ranks = communicator.size();
  if (!config.bitwise_across_ranks) return {ranks, communicator.rank(), 1};
  const int shards = static_cast<int>(config.gradient_shards);
  CHECK(shards % ranks == 0,
        "training.bitwise_across_ranks needs a number of ranks that divides "
        "training.gradient_shards (",
        shards, "), not ", ranks);
  return {shards, shards / ranks * communicator.rank(), shards / ranks};
}

TrainingStep::TrainingStep(Device& device, Communicator& communicator, ModelInstance& instance, const Config& config,
                           int64_t total_steps)
    : device_(device),
      communicator_(communicator),
      instance_(instance),
      config_(config),
      total_steps_(total_steps),
      sharded_(config.optimizer.sharded && communicator.size() > 1),
      sync_(communicator, instance.gradients(), instance.parameters(), sharded_),
      optimizer_(sharded_ ? Optimizer(config.optimizer, instance.parameters(), device, sync_.shares())
                          : Optimizer(config.optimizer, instance.parameters(), device)),
      arena_(device.kind()) {
  for (int shards = shard_plan(config.training, communicator).local_shards; shards > 1; shards /= 2) {
    partials_.push_back(device.allocate(instance.parameters().size() * static_cast<int64_t>(sizeof(float))));
  }
}

// The losses of a shard's pieces go to device_losses_, its gradient is added to the parameters' gradients.
void TrainingStep::compute_shard(const StepBatch& batch, size_t shard, int64_t step) {
  const bool last_shard = shard + 1 == batch.shard_ends.size();
  const size_t begin = shard == 0 ? 0 : batch.shard_ends[shard - 1], end = batch.shard_ends[shard];
  double* losses = device_losses_.as<double>(static_cast<int64_t>(losses_.size())).data();
  for (size_t index = begin; index < end; ++index) {
    const PackedBatch& piece = batch.pieces[index];
    arena_.reset();
    Tape tape(device_, arena_, Mode::kTraining, static_cast<uint64_t>(config_.training.seed),
              static_cast<uint32_t>(step));
    const MaskedBatch input = model_input(tape, piece);
    const Vector<double> loss = instance_.model().loss(tape, input, tape.on_device(piece.targets));
    device_.copy_within(loss.data(), losses + index, 1);
    // Where shards are folded, the gradient is whole only after that.
    if (last_shard && index + 1 == end && partials_.empty()) {
      tape.backward([this](int parameter) { sync_.parameter_ready(parameter); });
    } else {
      tape.backward();
    }
  }
}

// Adds the shard just computed to what came before it, as a binary counter adds one: the sum of all is the tree sum.
void TrainingStep::fold_shard(size_t shard, size_t shards) {
  const Vector<float> gradient = instance_.parameters().gradients();
  size_t level = 0;
  for (; (shard >> level) & 1; ++level) {
    itemloom::run(device_, AddScaled{.scale = 1, .x = partials_[level].as<float>(gradient.size()), .y = gradient});
  }
  if (shard + 1 == shards) return;
  device_.copy_within(gradient.data(), partials_[level].as<float>(gradient.size()).data(), gradient.size());
  itemloom::run(device_, Fill{.value = 0, .y = gradient});
}

void TrainingStep::compute_shards(const StepBatch& batch, int64_t step) {
  const size_t pieces = batch.shard_ends.back();
  if (pieces > losses_.size()) {
    // With room to spare: batches differ by some pieces, and a step is to allocate nothing.
    losses_.resize(std::bit_ceil(std::max<size_t>(pieces, 64)));
    device_losses_ = device_.allocate(static_cast<int64_t>(losses_.size() * sizeof(double)));
  }
  for (size_t shard = 0; shard < batch.shard_ends.size(); ++shard) {
    compute_shard(batch, shard, step);
    if (!partials_.empty()) fold_shard(shard, batch.shard_ends.size());
  }
}

// The loss of this rank: pieces in their order make a shard's, which are summed in the gradients' tree.
double TrainingStep::read_loss(const StepBatch& batch) {
  const int64_t pieces = static_cast<int64_t>(batch.shard_ends.back());
  device_.copy_to_host(device_losses_.as<double>(pieces).data(), losses_.data(), pieces);
  std::array<double, kMostShards> sums{};
  std::array<const double*, kMostShards> sources{};
  size_t piece = 0;
  for (size_t shard = 0; shard < batch.shard_ends.size(); ++shard) {
    for (; piece < batch.shard_ends[shard]; ++piece) sums[shard] += losses_[piece];
    sources[shard] = &sums[shard];
  }
  double loss = 0;
  tree_sum(sources.data(), static_cast<int>(batch.shard_ends.size()), 1, &loss);
  return loss;
}

// Every rank's share of a buffer comes to all of them.
void TrainingStep::gather(ExchangeBuffer& buffer) {
  buffer.begin_after_device();
  for (const FlatRange& bucket : sync_.buckets()) buffer.all_gather(bucket);
  buffer.device_continues_after();
}

// Each rank has updated its own share of the parameters.
void TrainingStep::share_values() {
  gather(instance_.values());
  // The other shares hold sums of some ranks, which nobody needs.
  itemloom::run(device_, Fill{.value = 0, .y = instance_.parameters().gradients()});
}

StepResult TrainingStep::run(const StepBatch& batch, int64_t step, bool asked_to_stop) {
  StepResult result;
  RankStatus& status = communicator_.status();
  status.step.store(step + 1, std::memory_order_relaxed);
  status.enter(RankPhase::kComputing);
  Lap lap;
  compute_shards(batch, step);
  const StepTotals mine{read_loss(batch), batch.masked, asked_to_stop};
  result.compute_seconds = lap();
  status.enter(RankPhase::kReducingGradients);
  sync_.finish();
  const StepTotals totals = sum_totals(communicator_, mine);
  result.communication_seconds = lap();
  status.enter(RankPhase::kUpdating);
  result.loss_sum = totals.loss_sum;
  result.masked = totals.masked;
  result.stop = totals.stop > 0;
  double scale = 1.0 / static_cast<double>(result.masked);
  result.gradient_norm = optimizer_.gradient_norm(communicator_, scale);
  result.learning_rate =
      config_.optimizer.learning_rate * schedule_factor(config_.optimizer.schedule, step, total_steps_);
  if (!std::isfinite(result.loss_sum) || !std::isfinite(result.gradient_norm)) {
    result.skipped = true;
    itemloom::run(device_, Fill{.value = 0, .y = instance_.parameters().gradients()});
    return result;
  }
  if (config_.optimizer.clip_norm > 0 && result.gradient_norm > config_.optimizer.clip_norm) {
    scale *= config_.optimizer.clip_norm / result.gradient_norm;
  }
  optimizer_.step(result.learning_rate, scale);
  if (sharded_) share_values();
  instance_.values_changed();
  result.update_seconds = lap();
  return result;
}

void TrainingStep::gather_slots(FunctionRef<void(const std::string&, Vector<const float>)> take) {
  // Between steps the gradients are zero and nobody's: the slices meet there.
  const Vector<float> whole = instance_.parameters().gradients();
  for (const Optimizer::Slot& slot : optimizer_.slots()) {
    if (!sharded_) {
      take(slot.name, slot.values);
      continue;
    }
    int64_t begin = 0;
    for (const FlatRange& range : optimizer_.owned()) {
      device_.copy_within(slot.values.data() + begin, whole.data() + range.begin, range.size());
      begin += range.size();
    }
    gather(instance_.gradients());
    take(slot.name, whole);
    communicator_.barrier();
  }
  if (sharded_) itemloom::run(device_, Fill{.value = 0, .y = whole});
}

void TrainingStep::scatter_slots(FunctionRef<void(const std::string&, Vector<float>)> give) {
  HostImage image(device_, instance_.parameters().gradients());
  const Vector<float> whole = image.floats();
  for (const Optimizer::Slot& slot : optimizer_.slots()) {
    if (communicator_.is_first()) give(slot.name, whole);
    communicator_.broadcast(whole.data(), whole.size() * static_cast<int64_t>(sizeof(float)));
    int64_t begin = 0;
    for (const FlatRange& range : optimizer_.owned()) {
      device_.copy_from_host(whole.data() + range.begin, slot.values.data() + begin, range.size());
      begin += range.size();
    }
  }
  itemloom::run(device_, Fill{.value = 0, .y = instance_.parameters().gradients()});
}

}  // namespace itemloom
