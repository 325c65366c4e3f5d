#include "train/memory_plan.h"

#include <algorithm>
#include <vector>

#include "core/arena.h"
#include "core/tape.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/kernels.h"
#include "tests/support/sequences.h"
#include "tests/support/thread_group.h"
#include "train/trainer.h"
#include "train/training_data.h"

#ifdef ITEMLOOM_CUDA_EMULATED
#include <cuda_runtime_api.h>
#endif

namespace itemloom {
namespace {

constexpr int64_t kItems = 70, kMaxLength = 12;

// Sequences of 1 to 12 items.
struct Data : test::Sequences {
  Data() {
    config.data.max_length = kMaxLength;
    config.model.hidden_size = 16;
    config.model.heads = 2;
    config.model.layers = 2;
    config.training.batch_size = 20;
    config.training.micro_batch_tokens = 40;
    for (int64_t sequence = 0; sequence < 90; ++sequence) {
      for (int64_t place = test::random_int(1, sequence, kMaxLength); place >= 0; --place) {
        items.push_back(static_cast<int32_t>(test::random_int(2, 20 * sequence + place, kItems)));
      }
      end_sequence();
    }
  }

  MemoryPlan plan(const Communicator& communicator) const {
    return plan_memory(config, windows(kMaxLength), kItems, cases(), communicator);
  }
  LoaderOptions loader_options(const Communicator& communicator) const {
    return itemloom::loader_options(config, shard_plan(config.training, communicator));
  }
  // Of each sequence the last item is asked for, so that some histories are empty and all are short.
  std::vector<RankingCase> cases() const {
    std::vector<RankingCase> cases;
    for (size_t sequence = 0; sequence + 1 < offsets.size(); ++sequence) {
      const int64_t begin = offsets[sequence], last = offsets[sequence + 1] - 1;
      cases.push_back({.history = all_items().slice(begin, last - begin), .targets = all_items().slice(last, 1)});
    }
    return cases;
  }

  Config config;
};

// Bytes of the GPU in use, where somebody counts them alone; else 0.
int64_t device_bytes() {
#ifdef ITEMLOOM_CUDA_EMULATED
  size_t free = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
  return static_cast<int64_t>(total - free);
#else
  return 0;
#endif
}

}  // namespace

TEST_CASE("no piece of any batch needs more than was planned, and a full one little less", "[memory_plan][device]") {
  test::on_every_device([](Device& device) {
    Data data;
    // Pieces are then filled up.
    data.config.training.cuda_graphs = device.kind() == DeviceKind::kCuda;
    data.config.training.graph_bucket = 16;
    const auto self = make_self_communicator();
    const MemoryPlan plan = data.plan(*self);
    ModelInstance instance(device, data.config.model, kItems, kMaxLength, 1);
    REQUIRE(plan.parameters == instance.parameters().size() * 4);
    REQUIRE(plan.gradients == plan.parameters);
    REQUIRE(plan.optimizer_state == 2 * plan.parameters);
    const LoaderOptions options = data.loader_options(*self);
    const BatchBounds bounds = batch_bounds(data.windows(kMaxLength), options);
    Loader loader(data.all_items(), data.windows(kMaxLength), Masking(data.config.masking, 1, kItems), options);
    int64_t most = 0;
    for (int64_t epoch = 0; epoch < test::by_device<int64_t>(device, 20, 1); ++epoch) {
      for (int64_t batch = 0; batch < loader.batches(epoch); ++batch) {
        const StepBatch& step = loader.load(epoch, batch);
        REQUIRE(step.rows <= bounds.rows);
        REQUIRE(static_cast<int64_t>(step.shard_ends.back()) <= bounds.pieces);
        for (size_t index = 0; index < step.shard_ends.back(); ++index) {
          const PackedBatch& piece = step.pieces[index];
          REQUIRE(piece.rows() <= bounds.piece_rows);
          Arena arena(device.kind());
          Tape tape(device, arena, Mode::kTraining);
          instance.model().loss(tape, model_input(tape, piece), tape.on_device(piece.targets));
          tape.backward();
          most = std::max(most, arena.used());
        }
      }
    }
    REQUIRE(most <= plan.activations);
    REQUIRE(most > plan.activations / 2);
  });
}

TEST_CASE("a plan counts copies, waiting gradients, shares and workspace as the config has them", "[memory_plan]") {
  Data data;
  const auto self = make_self_communicator();
  const auto planned = [&] { return data.plan(*self); };
  const MemoryPlan plain = planned();
  REQUIRE(plain.libraries == 0);
  REQUIRE(plain.scratch > 0);
  REQUIRE(plain.validation.tile > 64 * kItems * 4);
  REQUIRE(plain.total() == plain.parameters + plain.gradients + plain.optimizer_state + plain.activations +
                               plain.validation.total() + plain.scratch);
  data.config.evaluation.batch_size = 8;
  REQUIRE(planned().validation.tile < plain.validation.tile / 7);
  data.config.training.validate_every = 0;
  REQUIRE(planned().validation.total() == 0);
  data.config.training.validate_every = 1;
  data.config.evaluation.batch_size = 64;
  data.config.training.bitwise_across_ranks = true;
  REQUIRE(planned().gradients == plain.gradients * 4);  // eight shards meet in a tree of three levels
  data.config.training.bitwise_across_ranks = false;
  data.config.optimizer.name = "sgd";
  REQUIRE(planned().optimizer_state == 0);
  data.config.optimizer.momentum = 0.9;
  REQUIRE(planned().optimizer_state == plain.parameters);
  data.config.device = "cuda";
  data.config.training.precision = "bf16";
  const MemoryPlan bf16 = planned();
  REQUIRE(bf16.parameters == plain.parameters * 3 / 2);
  REQUIRE(bf16.activations < plain.activations * 2 / 3);
  REQUIRE(bf16.workspace() > int64_t{32} << 20);
  data.config.training.cuda_graphs = true;
  data.config.training.graph_bucket = 64;
  REQUIRE(planned().activations > bf16.activations);
  data.config.training.cuda_graphs = false;
  data.config.training.micro_batch_tokens = 20;
  REQUIRE(planned().activations < bf16.activations);
  // A rank alone exchanges nothing; two have one bucket here, which holds all gradients.
  data.config.training.gradient_exchange = "bf16";
  REQUIRE(planned().gradients == bf16.gradients);
  int64_t of_two = 0;
  test::run_ranks_well(2, [&](Communicator& communicator) {
    const MemoryPlan plan = data.plan(communicator);
    if (communicator.is_first()) of_two = plan.gradients;
  });
  REQUIRE(of_two == bf16.gradients * 3 / 2);
}

TEST_CASE("a run takes what was planned, and all of it before the first step", "[memory_plan][device]") {
  test::on_every_device([](Device& device) {
    const Data data;
    const Config& config = data.config;
    const auto self = make_self_communicator();
    Config planned_config = config;
    planned_config.device = test::by_device<std::string>(device, "cpu", "cuda");
    const MemoryPlan plan = plan_memory(planned_config, data.windows(kMaxLength), kItems, data.cases(), *self);
    const int64_t before = device_bytes();
    ModelInstance instance(device, config.model, kItems, kMaxLength, 1);
    Loader loader(data.all_items(), data.windows(kMaxLength), Masking(config.masking, 1, kItems),
                  data.loader_options(*self));
    TrainingStep step(device, *self, instance, config, 8);
    ModelScorer scorer(device, instance.model(), kMaxLength);
    step.reserve(plan.activations);
    scorer.reserve(plan.validation);
    device.reserve_scratch(plan.scratch);
    const int64_t taken = device_bytes();
    if (device.cuda() && taken > 0) {
      // Beside the plan there are losses, the decision and sums of squares.
      REQUIRE(taken - before >= plan.total() - plan.libraries);
      REQUIRE(taken - before < plan.total() - plan.libraries + 16384);
    }
    const int64_t scratch = device.scratch_size();
    REQUIRE(scratch < plan.scratch + 4096);
    Scorer* const scorers[] = {&scorer};
    const std::vector<RankingCase> cases = data.cases();
    for (int64_t batch = 0; batch < test::by_device<int64_t>(device, 5, 2); ++batch) {
      step.run(loader.load(0, batch), batch);
      step.result(TrainingStep::Until::kAllIsDone);
    }
    rank_targets(scorers, cases, config.evaluation.batch_size);
    REQUIRE(device.scratch_size() == scratch);
    REQUIRE(device_bytes() == taken);
  });
}

TEST_CASE("a plan of shares is that of the rank that has most", "[memory_plan]") {
  Data data;
  data.config.model.hidden_size = 128;  // several blocks of parameters
  data.config.optimizer.sharded = true;
  for (const int ranks : {2, 3}) {
    std::vector<int64_t> planned(static_cast<size_t>(ranks)), taken(planned.size());
    test::run_ranks_well(ranks, [&](Communicator& communicator) {
      const auto rank = static_cast<size_t>(communicator.rank());
      planned[rank] = data.plan(communicator).optimizer_state;
      Device device;
      ModelInstance instance(device, data.config.model, kItems, kMaxLength, 1, communicator, true);
      const TrainingStep step(device, communicator, instance, data.config, 8);
      taken[rank] = step.optimizer().state_bytes();
    });
    REQUIRE(planned == std::vector<int64_t>(planned.size(), *std::max_element(taken.begin(), taken.end())));
    REQUIRE(*std::min_element(taken.begin(), taken.end()) > 0);
  }
}

}  // namespace itemloom
