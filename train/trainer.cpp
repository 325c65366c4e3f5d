#include "train/trainer.h"

#include "core/profile.h"
#include "kernels/elementwise.h"
#include "optim/schedule.h"

namespace itemloom {
namespace {

std::unique_ptr<ExchangeBuffer> make_buffer(Device& device, Communicator& communicator, int64_t floats) {
  if (device.kind() == DeviceKind::kPlanning) return std::make_unique<OwnBuffer>(device.kind(), floats);
  if (device.cuda()) return cuda_backend::make_exchange_buffer(*device.cuda(), communicator, floats);
  return communicator.make_exchange_buffer(floats);
}

}  // namespace

ModelInstance::ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length,
                             uint64_t seed, bool gradients)
    : ModelInstance(device, config, items, max_length, seed, *make_self_communicator(), false, gradients) {}

ModelInstance::ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length,
                             uint64_t seed, Communicator& communicator, bool shared_values)
    : ModelInstance(device, config, items, max_length, seed, communicator, shared_values, true) {}

ModelInstance::ModelInstance(Device& device, const ModelConfig& config, int64_t items, int64_t max_length,
                             uint64_t seed, Communicator& communicator, bool shared_values, bool gradients)
    : device_(device), model_(Scope(parameters_), config, items, max_length) {
  const int64_t floats = parameters_.size();
  values_ = make_buffer(device, shared_values ? communicator : *make_self_communicator(), floats);
  if (gradients) gradients_ = make_buffer(device, communicator, floats);
  parameters_.allocate(device, seed, values_->values(), gradients ? gradients_->values() : Vector<float>::none());
}

void ModelInstance::values_changed() {
  const Vector<Bf16> copy = parameters_.bf16_values();
  if (copy) run(device_, Convert<float, Bf16>{.x = parameters_.values(), .y = copy});
}

MaskedBatch model_input(Tape& tape, const PackedBatch& batch) {
  // Here, because no op can read them where they go.
  CHECK(!batch.sequence_offsets.empty() && batch.sequence_offsets.back() == batch.rows(),
        "the sequences of a batch do not end with its ", batch.rows(), " rows");
  const auto [items, positions, sequence_offsets, row_ids, masked_rows, masked_row_ids] = tape.all_on_device(
      batch.items, batch.positions, batch.sequence_offsets, batch.row_ids, batch.masked_rows, batch.masked_row_ids);
  return MaskedBatch{.items = items,
                     .positions = positions,
                     .sequence_offsets = sequence_offsets,
                     .row_ids = row_ids,
                     .masked_rows = masked_rows,
                     .masked_row_ids = masked_row_ids};
}

void put_step_on_device(Tape& tape, int64_t step) {
  const std::vector<uint32_t> number = {static_cast<uint32_t>(step)};
  tape.take_step_from(tape.on_device(number).data());
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
      plan_(shard_plan(config.training, communicator)),
      sharded_(config.optimizer.sharded && communicator.size() > 1),
      sync_(device, communicator, instance.gradients(), instance.parameters(),
            {.sharded = sharded_, .rounded = config.training.gradient_exchange == "bf16"}),
      optimizer_(sharded_ ? Optimizer(config.optimizer, instance.parameters(), device, sync_.shares())
                          : Optimizer(config.optimizer, instance.parameters(), device)),
      arena_(device.kind()),
      told_{Told(device), Told(device)} {
  if (config.training.cuda_graphs) {
    CHECK(device.cuda(), "training.cuda_graphs is for a GPU");
    // A graph knows where the loss of a shard is added to.
    CHECK(plan_.local_shards == 1, "training.cuda_graphs is for one shard a rank");
    graphs_.emplace(device, sync_);
  }
  losses_ = device.allocate(plan_.shards * static_cast<int64_t>(sizeof(double)));
  for (int level = 0; level < plan_.waiting_gradients(); ++level) {
    partials_.push_back(device.allocate(instance.parameters().size() * static_cast<int64_t>(sizeof(float))));
  }
}

TrainingStep::Told::Told(Device& device)
    : begun(device), computed(device), reduced(device), done(device), decision(device.kind(), sizeof(StepDecision)) {}

// The losses of a shard's pieces are added to its loss, its gradient to the parameters' gradients.
void TrainingStep::compute_shard(const StepBatch& batch, size_t shard, int64_t step) {
  const bool last_shard = shard + 1 == batch.shard_ends.size();
  const size_t begin = shard == 0 ? 0 : batch.shard_ends[shard - 1], end = batch.shard_ends[shard];
  for (size_t index = begin; index < end; ++index) {
    // Where shards are folded, the gradient is whole only after that.
    const bool reports = last_shard && index + 1 == end && partials_.empty();
    compute_piece(batch.pieces[index], step, losses().slice(plan_.first_shard + static_cast<int64_t>(shard), 1),
                  reports);
  }
}

void TrainingStep::compute_piece(const PackedBatch& piece, int64_t step, Vector<double> loss_sum, bool reports) {
  arena_.reset();
  Tape tape(device_, arena_, Mode::kTraining, static_cast<uint64_t>(config_.training.seed),
            static_cast<uint32_t>(step));
  const MaskedBatch input = model_input(tape, piece);
  const Vector<const int32_t> targets = tape.on_device(piece.targets);
  const auto tell = [&](FunctionRef<void(int)> ready) {
    {
      const ProfileRange range("forward");
      const Vector<double> loss = instance_.model().loss(tape, input, targets);
      itemloom::run(device_, AddLoss{.loss = loss, .sum = loss_sum});
    }
    const ProfileRange range("backward");
    if (reports) {
      tape.backward(ready);
    } else {
      tape.backward();
    }
  };
  if (!graphs_) return tell([this](int parameter) { sync_.parameter_ready(parameter); });
  put_step_on_device(tape, step);
  // A rank alone has nobody to report to.
  graphs_->run({.rows = piece.rows(),
                .masked = piece.masked(),
                .sequences = piece.sequences(),
                .reports = reports && communicator_.size() > 1},
               tell);
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
  device_.zero(losses_.data(), losses_.bytes());
  for (size_t shard = 0; shard < batch.shard_ends.size(); ++shard) {
    compute_shard(batch, shard, step);
    if (!partials_.empty()) fold_shard(shard, batch.shard_ends.size());
  }
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

bool TrainingStep::run(const StepBatch& batch, int64_t step, bool asked_to_stop) {
  CHECK(steps_told_ - results_given_ < 2, "step ", step, " was asked for before the result of the one before the last");
  Told& told = told_[static_cast<size_t>(steps_told_ % 2)];
  RankStatus& status = communicator_.status();
  status.step.store(step + 1, std::memory_order_relaxed);
  status.enter(RankPhase::kComputing);
  told.begun.set();
  compute_shards(batch, step);
  told.computed.set();
  status.enter(RankPhase::kReducingGradients);
  int64_t counts[] = {batch.masked, asked_to_stop};
  {
    const ProfileRange range("reduce");
    sync_.finish();
    gather_by_sum(device_, communicator_, losses());
    // The hosts know these before the devices have done anything.
    communicator_.all_reduce_sum(Vector<int64_t>(counts, 2));
  }
  told.reduced.set();
  status.enter(RankPhase::kUpdating);
  const auto [masked, stop] = counts;
  const double learning_rate =
      config_.optimizer.learning_rate * schedule_factor(config_.optimizer.schedule, step, total_steps_);
  {
    const ProfileRange range("optimizer");
    optimizer_.step(communicator_, learning_rate, 1.0 / static_cast<double>(masked), losses());
    if (sharded_) share_values();
    instance_.values_changed();
  }
  device_.copy_to_pinned(optimizer_.decision().data(), told.decision.as<StepDecision>(), 1);
  told.done.set();
  told.result = {
      .step = step, .batch = batch.batch, .rows = batch.rows, .masked = masked, .learning_rate = learning_rate};
  ++steps_told_;
  return stop > 0;
}

std::optional<StepResult> TrainingStep::result(Until until) {
  const int64_t left = until == Until::kWorkIsLeft && device_.kind() == DeviceKind::kCuda ? 1 : 0;
  if (steps_told_ - results_given_ <= left) return {};
  const Told& told = told_[static_cast<size_t>(results_given_++ % 2)];
  told.done.wait();
  const StepDecision& decision = *told.decision.as<StepDecision>();
  StepResult result = told.result;
  result.loss_sum = decision.loss_sum;
  result.gradient_norm = decision.gradient_norm;
  result.skipped = decision.skipped;
  result.compute_seconds = told.computed.seconds_since(told.begun);
  result.communication_seconds = told.reduced.seconds_since(told.computed);
  result.update_seconds = told.done.seconds_since(told.reduced);
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
