#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <cstring>

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

void copy_floats(Vector<const float> from, Vector<float> to) {
  std::memcpy(to.data(), from.data(), static_cast<size_t>(from.size()) * sizeof(float));
}

std::unique_ptr<ExchangeBuffer> own_buffer(int64_t floats) {
  return make_self_communicator()->make_exchange_buffer(floats);
}

}  // namespace

ModelInstance::ModelInstance(const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed)
    : ModelInstance(config, items, max_length, seed, *make_self_communicator(), false) {}

ModelInstance::ModelInstance(const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed,
                             Communicator& communicator, bool shared_values)
    : model_(Scope(parameters_), config, items, max_length) {
  const int64_t floats = parameters_.size();
  values_ = shared_values ? communicator.make_exchange_buffer(floats) : own_buffer(floats);
  gradients_ = communicator.make_exchange_buffer(floats);
  parameters_.allocate(seed, values_->values(), gradients_->values());
}

MaskedBatch model_input(const PackedBatch& batch) {
  auto view = [](const auto& values) {
    return Vector<const typename std::decay_t<decltype(values)>::value_type>(values.data(), values.size());
  };
  return MaskedBatch{.items = view(batch.items),
                     .positions = view(batch.positions),
                     .sequence_offsets = view(batch.sequence_offsets),
                     .row_ids = view(batch.row_ids),
                     .masked_rows = view(batch.masked_rows),
                     .masked_row_ids = view(batch.masked_row_ids)};
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
      optimizer_(sharded_ ? Optimizer(config.optimizer, instance.parameters(), sync_.shares())
                          : Optimizer(config.optimizer, instance.parameters())) {
  for (int shards = shard_plan(config.training, communicator).local_shards; shards > 1; shards /= 2) {
    Partial partial;
    partial.gradient = HostBlock(instance.parameters().size() * static_cast<int64_t>(sizeof(float)));
    partials_.push_back(std::move(partial));
  }
}

// Gives the sum of the losses of a shard's masked rows; its gradient is added to the parameters' gradients.
double TrainingStep::compute_shard(const StepBatch& batch, size_t shard, int64_t step) {
  const bool last_shard = shard + 1 == batch.shard_ends.size();
  const size_t begin = shard == 0 ? 0 : batch.shard_ends[shard - 1], end = batch.shard_ends[shard];
  double loss_sum = 0;
  for (size_t index = begin; index < end; ++index) {
    const PackedBatch& piece = batch.pieces[index];
    arena_.reset();
    Tape tape(device_, arena_, Mode::kTraining, static_cast<uint64_t>(config_.training.seed),
              static_cast<uint32_t>(step));
    const Vector<const int32_t> targets(piece.targets.data(), piece.targets.size());
    loss_sum += instance_.model().loss(tape, model_input(piece), targets)[0];
    // Where shards are folded, the gradient is whole only after that.
    if (last_shard && index + 1 == end && partials_.empty()) {
      tape.backward([this](int parameter) { sync_.parameter_ready(parameter); });
    } else {
      tape.backward();
    }
  }
  return loss_sum;
}

// Adds the shard just computed to what came before it, as a binary counter adds one: the sum of all is the tree sum.
void TrainingStep::fold_shard(size_t shard, size_t shards, double& loss) {
  const Vector<float> gradient = instance_.parameters().gradients();
  size_t level = 0;
  for (; (shard >> level) & 1; ++level) {
    const Vector<const float> before(reinterpret_cast<const float*>(partials_[level].gradient.data()), gradient.size());
    itemloom::run(device_, AddScaled{.scale = 1, .x = before, .y = gradient});
    loss = partials_[level].loss + loss;
  }
  if (shard + 1 == shards) return;
  std::memcpy(partials_[level].gradient.data(), gradient.data(), static_cast<size_t>(gradient.size()) * sizeof(float));
  partials_[level].loss = loss;
  itemloom::run(device_, Fill{.value = 0, .y = gradient});
}

double TrainingStep::compute_shards(const StepBatch& batch, int64_t step) {
  double loss = 0;
  for (size_t shard = 0; shard < batch.shard_ends.size(); ++shard) {
    loss = compute_shard(batch, shard, step);
    if (!partials_.empty()) fold_shard(shard, batch.shard_ends.size(), loss);
  }
  return loss;
}

// Each rank has updated its own share of the parameters.
void TrainingStep::share_values() {
  for (const FlatRange& bucket : sync_.buckets()) instance_.values().all_gather(bucket);
  // The other shares hold sums of some ranks, which nobody needs.
  itemloom::run(device_, Fill{.value = 0, .y = instance_.parameters().gradients()});
}

StepResult TrainingStep::run(const StepBatch& batch, int64_t step, bool asked_to_stop) {
  StepResult result;
  RankStatus& status = communicator_.status();
  status.step.store(step + 1, std::memory_order_relaxed);
  status.enter(RankPhase::kComputing);
  Lap lap;
  const StepTotals mine{compute_shards(batch, step), batch.masked, asked_to_stop};
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
  result.gradient_norm = optimizer_.gradient_norm(device_, communicator_, scale);
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
  optimizer_.step(device_, result.learning_rate, scale);
  if (sharded_) share_values();
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
      copy_floats(slot.values.slice(begin, range.size()), whole.slice(range.begin, range.size()));
      begin += range.size();
    }
    for (const FlatRange& bucket : sync_.buckets()) instance_.gradients().all_gather(bucket);
    take(slot.name, whole);
    communicator_.barrier();
  }
  if (sharded_) itemloom::run(device_, Fill{.value = 0, .y = whole});
}

void TrainingStep::scatter_slots(FunctionRef<void(const std::string&, Vector<float>)> give) {
  const Vector<float> whole = instance_.parameters().gradients();
  for (const Optimizer::Slot& slot : optimizer_.slots()) {
    if (communicator_.is_first()) give(slot.name, whole);
    communicator_.broadcast(whole.data(), whole.size() * static_cast<int64_t>(sizeof(float)));
    int64_t begin = 0;
    for (const FlatRange& range : optimizer_.owned()) {
      copy_floats(whole.slice(range.begin, range.size()), slot.values.slice(begin, range.size()));
      begin += range.size();
    }
  }
  itemloom::run(device_, Fill{.value = 0, .y = whole});
}

}  // namespace itemloom
