#include "train/trainer.h"

#include <cmath>

#include "kernels/elementwise.h"
#include "optim/schedule.h"

namespace itemloom {

ModelInstance::ModelInstance(const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed)
    : model_(Scope(parameters_), config, items, max_length) {
  parameters_.allocate(seed);
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

TrainingStep::TrainingStep(Device& device, ModelInstance& instance, Optimizer& optimizer, const Config& config,
                           int64_t total_steps)
    : device_(device), instance_(instance), optimizer_(optimizer), config_(config), total_steps_(total_steps) {}

StepResult TrainingStep::run(const StepBatch& batch, int64_t step) {
  StepResult result;
  const uint64_t dropout_seed = static_cast<uint64_t>(config_.training.seed);
  for (size_t index = 0; index < batch.piece_count; ++index) {
    const PackedBatch& piece = batch.pieces[index];
    arena_.reset();
    Tape tape(device_, arena_, Mode::kTraining, dropout_seed, static_cast<uint32_t>(step));
    const Vector<const int32_t> targets(piece.targets.data(), piece.targets.size());
    result.loss_sum += instance_.model().loss(tape, model_input(piece), targets)[0];
    tape.backward();
  }
  const Vector<float> gradients = instance_.parameters().gradients();
  double scale = 1.0 / static_cast<double>(batch.masked);
  result.gradient_norm = gradient_norm(device_, gradients, scale);
  result.learning_rate =
      config_.optimizer.learning_rate * schedule_factor(config_.optimizer.schedule, step, total_steps_);
  if (!std::isfinite(result.loss_sum) || !std::isfinite(result.gradient_norm)) {
    result.skipped = true;
    itemloom::run(device_, Fill{.value = 0, .y = gradients});
    return result;
  }
  if (config_.optimizer.clip_norm > 0 && result.gradient_norm > config_.optimizer.clip_norm) {
    scale *= config_.optimizer.clip_norm / result.gradient_norm;
  }
  optimizer_.step(device_, result.learning_rate, scale);
  return result;
}

}  // namespace itemloom
