// Steps that are told to a device ahead of their results: what is skipped, what is kept, and what the host waits for.
#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "tests/support/catch.h"
#include "tests/support/small_training.h"
#include "tests/support/thread_group.h"

#ifdef ITEMLOOM_CUDA_EMULATED
#include "tests/cuda_emulation/src/counters.h"
#endif

namespace itemloom {
namespace {

using test::Outcome;
using test::SmallTraining;
using Until = TrainingStep::Until;

constexpr int64_t kSteps = 6;

// Of little work, because an emulation may do it.
Config config_of(bool sharded) {
  Config config = test::small_config(false, sharded);
  config.model.layers = 1;
  return config;
}

// In the gradients of the next step.
void plant_nan(SmallTraining& training) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  training.device.copy_from_host(&nan, training.instance.parameters().gradients().data() + 20000, 1);
}

// All steps; in those of `planted` the last rank has a gradient that is not finite.
std::vector<Outcome> train(int ranks, const Config& config, DeviceKind kind, const std::vector<int64_t>& planted) {
  const test::History history;
  test::Threads one(1);  // the pool belongs to the process; ranks are to be beside each other, not in turn
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  test::run_ranks_well(ranks, [&](Communicator& communicator) {
    SmallTraining training(communicator, config, history, kind);
    Outcome& outcome = outcomes[static_cast<size_t>(communicator.rank())];
    for (int64_t number = 0; number < kSteps; ++number) {
      const bool plant = std::count(planted.begin(), planted.end(), number) > 0;
      if (plant && communicator.rank() == ranks - 1) plant_nan(training);
      training.run(number);
      outcome.take(training, Until::kWorkIsLeft);
    }
    outcome.finish(training);
  });
  return outcomes;
}

void require_skips(DeviceKind kind) {
  const std::vector<int64_t> planted = {1, 2, kSteps - 1};
  for (const int ranks : {1, 2}) {
    for (const bool sharded : {false, true}) {
      if (sharded && ranks == 1) continue;
      CAPTURE(ranks, sharded, kind);
      Config config = config_of(sharded);
      // In bf16, too, it stays not finite.
      if (sharded && kind == DeviceKind::kCuda) config.training.gradient_exchange = "bf16";
      const std::vector<Outcome> outcomes = train(ranks, config, kind, planted);
      for (const Outcome& outcome : outcomes) {
        REQUIRE(outcome.skipped() == planted);
        REQUIRE(outcome.optimizer_steps == kSteps - 3);
        REQUIRE(test::same_bits(outcome.values, outcomes.front().values));
        REQUIRE(outcome.results.size() == kSteps);
        for (const StepResult& result : outcome.results) {
          REQUIRE(std::isfinite(result.loss_sum));
          REQUIRE(std::isfinite(result.gradient_norm) != result.skipped);
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("a gradient that is not finite on one rank skips the step on all of them", "[trainer]") {
  require_skips(DeviceKind::kCpu);
}

TEST_CASE("the CPU knows what came of a step when it returns", "[trainer]") {
  const test::History history;
  const auto communicator = make_self_communicator();
  SmallTraining training(*communicator, config_of(false), history, DeviceKind::kCpu);
  training.run(0);
  const auto result = training.step.result(Until::kWorkIsLeft);
  REQUIRE(result);
  REQUIRE(result->step == 0);
  REQUIRE_FALSE(training.step.result(Until::kAllIsDone));
}

#ifdef ITEMLOOM_CUDA
TEST_CASE("a gradient that is not finite skips the step on all GPUs", "[trainer][device][gpus]") {
  require_skips(DeviceKind::kCuda);
}

TEST_CASE("a GPU that has skipped steps goes on as the CPU does, and another one to the bit", "[trainer][device]") {
  const Config config = config_of(false);
  const std::vector<int64_t> planted = {1, 2};
  const Outcome whole = train(1, config, DeviceKind::kCuda, planted).front();
  const Outcome cpu = train(1, config, DeviceKind::kCpu, planted).front();
  REQUIRE(whole.optimizer_steps == cpu.optimizer_steps);
  for (size_t step = 0; step < kSteps; ++step) {
    REQUIRE(whole.results[step].loss_sum == Approx(cpu.results[step].loss_sum).epsilon(1e-5));
  }

  const test::History history;
  const auto communicator = make_self_communicator();
  Outcome halves;
  {
    SmallTraining first(*communicator, config, history, DeviceKind::kCuda);
    for (int64_t number = 0; number < 3; ++number) {
      if (number > 0) plant_nan(first);
      first.run(number);
      halves.take(first, Until::kWorkIsLeft);
    }
    halves.finish(first);
  }
  REQUIRE(halves.optimizer_steps == 1);
  SmallTraining second(*communicator, config, history, DeviceKind::kCuda);
  second.device.copy_from_host(halves.values.data(), second.instance.parameters().values().data(),
                               static_cast<int64_t>(halves.values.size()));
  size_t slot = 0;
  second.step.scatter_slots([&](const std::string&, Vector<float> whole_slot) {
    std::copy(halves.slots[slot].begin(), halves.slots[slot].end(), whole_slot.begin());
    ++slot;
  });
  second.step.optimizer().set_steps(halves.optimizer_steps);
  for (int64_t number = 3; number < kSteps; ++number) {
    second.run(number);
    halves.take(second, Until::kWorkIsLeft);
  }
  halves.finish(second);
  REQUIRE(test::same_bits(halves.values, whole.values));
  REQUIRE(halves.optimizer_steps == whole.optimizer_steps);
  for (size_t step = 0; step < kSteps; ++step) {
    REQUIRE(halves.results[step].skipped == whole.results[step].skipped);
    REQUIRE(halves.results[step].loss_sum == whole.results[step].loss_sum);
  }
}
#endif

#ifdef ITEMLOOM_CUDA_EMULATED
namespace {

// Of all devices of the process.
struct Counts {
  int64_t waits = cuda_emulation::host_synchronisations();
  int64_t waits_beside_work = cuda_emulation::waits_with_work_behind();
  int64_t idle_queries = cuda_emulation::queries_without_work_behind();
  int64_t allocations = cuda_emulation::device_allocations();
};

}  // namespace

TEST_CASE("steps 3 to 10 wait for a GPU only while it has the next step to do, and take no memory of it",
          "[trainer][device][gpus]") {
  test::History history;
  // A piece that is larger than all before it, or has more masked rows, makes working memory grow, for which the GPU is
  // waited for: here the first ones are as large as any.
  for (size_t sequence = 0; sequence < history.offsets.size(); ++sequence) {
    history.offsets[sequence] = 4 * static_cast<int64_t>(sequence);
  }
  REQUIRE(history.offsets.back() <= static_cast<int64_t>(history.items.size()));
  test::Threads one(1);
  struct Way {
    bool sharded, graphs;
  };
  for (const int ranks : {1, 2}) {
    for (const auto& [sharded, graphs] : {Way{false, false}, {true, false}, {false, true}}) {
      if (sharded && ranks == 1) continue;
      CAPTURE(ranks, sharded, graphs);
      Config config = config_of(sharded);
      if (sharded) config.training.gradient_exchange = "bf16";
      config.training.cuda_graphs = graphs;
      config.training.graph_bucket = 16;
      config.masking.probability = 1;
      config.masking.mask_last_share = 0;
      Counts before, after, end;
      test::run_ranks_well(ranks, [&](Communicator& communicator) {
        SmallTraining training(communicator, config, history, DeviceKind::kCuda);
        Outcome outcome;
        for (int64_t number = 0; number < 10; ++number) {
          if (number == 2) {
            communicator.barrier();
            if (communicator.is_first()) before = {};
            communicator.barrier();
          }
          training.run(number);
          outcome.take(training, Until::kWorkIsLeft);
        }
        communicator.barrier();
        if (communicator.is_first()) after = {};
        communicator.barrier();
        outcome.take(training, Until::kAllIsDone);
        communicator.barrier();
        if (communicator.is_first()) end = {};
        communicator.barrier();
      });
      REQUIRE(after.waits - before.waits == after.waits_beside_work - before.waits_beside_work);
      REQUIRE(after.idle_queries == before.idle_queries);
      REQUIRE(after.allocations == before.allocations);
      // For the result of the step before.
      REQUIRE(after.waits - before.waits == 8 * ranks);
      // The last result leaves the GPU without work, which the counters see.
      REQUIRE(end.waits_beside_work == after.waits_beside_work);
      REQUIRE(end.waits == after.waits + ranks);
    }
  }
}
#endif

}  // namespace itemloom
