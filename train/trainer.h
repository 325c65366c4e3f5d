// One optimizer step on one page, and the model it trains. Epochs, validation and checkpoints: train/training_run.h.
#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/memory.h"
#include "core/parameters.h"
#include "data/loader.h"
#include "layers/models/bert4rec.h"
#include "optim/optimizer.h"
#include "train/config.h"

namespace itemloom {

// A model with its parameters, on a device.
class ModelInstance {
 public:
  ModelInstance(const ModelConfig& config, int64_t items, int64_t max_length, uint64_t seed);

  const Bert4Rec& model() const { return model_; }
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }

 private:
  ParameterStore parameters_;
  Bert4Rec model_;
};

// A packed batch as the model sees it.
MaskedBatch model_input(const PackedBatch& batch);

struct StepResult {
  double loss_sum = 0;       // over masked rows
  double gradient_norm = 0;  // of the mean loss, before clipping
  double learning_rate = 0;
  bool skipped = false;  // the loss or a gradient was not finite; parameters are as before
};

// Forward, backward and update for one batch.
class TrainingStep {
 public:
  TrainingStep(Device& device, ModelInstance& instance, Optimizer& optimizer, const Config& config,
               int64_t total_steps);

  // `step` is 0-based and counts every batch, skipped ones too: it names dropout masks and the schedule's place.
  StepResult run(const StepBatch& batch, int64_t step);

  int64_t arena_bytes() const { return arena_.reserved(); }

 private:
  Device& device_;
  ModelInstance& instance_;
  Optimizer& optimizer_;
  const Config& config_;
  int64_t total_steps_;
  Arena arena_;
};

}  // namespace itemloom
