// A small training step by step, of a rank alone or of several.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/gradcheck.h"
#include "tests/support/kernels.h"
#include "tests/support/sequences.h"
#include "train/trainer.h"

namespace itemloom::test {

inline constexpr int64_t kItems = 900;  // several blocks of parameters, so that every rank has a share
inline constexpr int64_t kMaxLength = 12;

inline Config small_config(bool bitwise, bool sharded) {
  Config config;
  config.model.hidden_size = 64;
  config.model.heads = 2;
  config.model.layers = 2;
  config.training.bitwise_across_ranks = bitwise;
  config.training.batch_size = 7;
  config.training.micro_batch_tokens = 16;
  config.optimizer.sharded = sharded;
  config.optimizer.clip_norm = 0.5;
  return config;
}

// 23 sequences: batches of 7, and a last one of 2, fewer than there are ranks.
struct History : Sequences {
  History() {
    for (int64_t sequence = 0; sequence < 23; ++sequence) {
      const int64_t length = 1 + random_int(3, sequence, kMaxLength);
      for (int64_t place = 0; place < length; ++place) {
        items.push_back(static_cast<int32_t>(random_int(4, 100 * sequence + place, kItems)));
      }
      end_sequence();
    }
  }
};

// What one rank has. Each rank has a GPU of its own. An epoch has four steps.
class SmallTraining {
 public:
  SmallTraining(Communicator& communicator, const Config& config, const History& history, DeviceKind kind)
      : device(kind, communicator.rank(), precision_on(kind, config.training)),
        instance(device, config.model, kItems, kMaxLength, 1, communicator, config.optimizer.sharded),
        plan_(shard_plan(config.training, communicator)),
        loader_(history.all_items(), history.windows(kMaxLength), Masking(config.masking, 1, kItems),
                {.max_length = kMaxLength,
                 .batch_sequences = config.training.batch_size,
                 .batch_tokens = 0,
                 .piece_tokens = config.training.micro_batch_tokens,
                 .seed = 1,
                 .bucket = config.training.cuda_graphs ? config.training.graph_bucket : 0,
                 .shards = plan_.shards,
                 .first_shard = plan_.first_shard,
                 .local_shards = plan_.local_shards}),
        step(device, communicator, instance, config, 8) {}

  void run(int64_t number) { step.run(loader_.load(number / 4, number % 4), number); }

  std::vector<float> values() { return on_host(device, instance.parameters().values()); }
  std::vector<std::vector<float>> slots() {
    std::vector<std::vector<float>> slots;
    step.gather_slots(
        [&](const std::string&, Vector<const float> values) { slots.push_back(on_host(device, values)); });
    return slots;
  }

  Device device;
  ModelInstance instance;

 private:
  ShardPlan plan_;
  Loader loader_;

 public:
  TrainingStep step;
};

// What came of a SmallTraining.
struct Outcome {
  std::vector<float> values;
  std::vector<std::vector<float>> slots;
  std::vector<StepResult> results;
  int64_t optimizer_steps = 0;

  void take(SmallTraining& training, TrainingStep::Until until) {
    while (const auto result = training.step.result(until)) results.push_back(*result);
  }
  void finish(SmallTraining& training) {
    take(training, TrainingStep::Until::kAllIsDone);
    values = training.values();
    slots = training.slots();
    optimizer_steps = training.step.optimizer().steps();
  }
  std::vector<int64_t> skipped() const {
    std::vector<int64_t> numbers;
    for (const StepResult& result : results) {
      if (result.skipped) numbers.push_back(result.step);
    }
    return numbers;
  }
};

}  // namespace itemloom::test
