#include "train/memory_plan.h"

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

namespace itemloom {
namespace {

constexpr int64_t kItems = 70, kMaxLength = 12;

// Sequences of 1 to 12 items.
struct History : test::Sequences {
  History() {
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

  Config config;
};

}  // namespace

TEST_CASE("no piece of any batch needs more than was planned, and a full one little less", "[memory_plan][device]") {
  test::on_every_device([](Device& device) {
    History history;
    // Pieces are then filled up.
    history.config.training.cuda_graphs = device.kind() == DeviceKind::kCuda;
    history.config.training.graph_bucket = 16;
    const auto self = make_self_communicator();
    const MemoryPlan plan = plan_memory(history.config, history.windows(kMaxLength), kItems, *self);
    ModelInstance instance(device, history.config.model, kItems, kMaxLength, 1);
    REQUIRE(plan.parameters == instance.parameters().size() * 4);
    REQUIRE(plan.gradients == plan.parameters);
    REQUIRE(plan.optimizer_state == 2 * plan.parameters);
    const LoaderOptions options = loader_options(history.config, shard_plan(history.config.training, *self));
    const BatchBounds bounds = batch_bounds(history.windows(kMaxLength), options);
    Loader loader(history.all_items(), history.windows(kMaxLength), Masking(history.config.masking, 1, kItems),
                  options);
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
    // On the CPU what the tape notes comes from the same memory.
    const int64_t notes = test::by_device<int64_t>(device, 16384, 0);
    REQUIRE(most <= plan.activations + notes);
    REQUIRE(most > plan.activations / 2);
  });
}

TEST_CASE("a plan counts copies, waiting gradients, shares and workspace as the config has them", "[memory_plan]") {
  History history;
  const auto self = make_self_communicator();
  const auto planned = [&] { return plan_memory(history.config, history.windows(kMaxLength), kItems, *self); };
  const MemoryPlan plain = planned();
  REQUIRE(plain.workspace == 0);
  REQUIRE(plain.total() == plain.parameters + plain.gradients + plain.optimizer_state + plain.activations);
  history.config.training.bitwise_across_ranks = true;
  REQUIRE(planned().gradients == plain.gradients * 4);  // eight shards meet in a tree of three levels
  history.config.training.bitwise_across_ranks = false;
  history.config.optimizer.name = "sgd";
  REQUIRE(planned().optimizer_state == 0);
  history.config.optimizer.momentum = 0.9;
  REQUIRE(planned().optimizer_state == plain.parameters);
  history.config.device = "cuda";
  history.config.training.precision = "bf16";
  const MemoryPlan bf16 = planned();
  REQUIRE(bf16.parameters == plain.parameters * 3 / 2);
  REQUIRE(bf16.activations < plain.activations * 2 / 3);
  REQUIRE(bf16.workspace > int64_t{32} << 20);
  history.config.training.cuda_graphs = true;
  history.config.training.graph_bucket = 64;
  REQUIRE(planned().activations > bf16.activations);
  history.config.training.cuda_graphs = false;
  history.config.training.micro_batch_tokens = 20;
  REQUIRE(planned().activations < bf16.activations);
  // A rank alone exchanges nothing; two have one bucket here, which holds all gradients.
  history.config.training.gradient_exchange = "bf16";
  REQUIRE(planned().gradients == bf16.gradients);
  int64_t of_two = 0;
  test::run_ranks_well(2, [&](Communicator& communicator) {
    const MemoryPlan plan = plan_memory(history.config, history.windows(kMaxLength), kItems, communicator);
    if (communicator.is_first()) of_two = plan.gradients;
  });
  REQUIRE(of_two == bf16.gradients * 3 / 2);
}

}  // namespace itemloom
