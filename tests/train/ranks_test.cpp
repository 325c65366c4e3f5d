// Data-parallel steps by threads that act as ranks, against one rank.
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "tests/support/catch.h"
#include "tests/support/small_training.h"
#include "tests/support/thread_group.h"

namespace itemloom {
namespace {

using test::History;
using test::kItems;
using test::kMaxLength;

struct Outcome {
  std::vector<float> values;
  std::vector<std::vector<float>> slots;
  std::vector<double> losses, norms;
  std::vector<int64_t> masked;
  int64_t state_bytes = 0;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool operator==(const Outcome& a, const Outcome& b) {
  bool same = same_bits(a.values, b.values) && a.losses == b.losses && a.norms == b.norms && a.masked == b.masked &&
              a.slots.size() == b.slots.size();
  for (size_t slot = 0; same && slot < a.slots.size(); ++slot) same = same_bits(a.slots[slot], b.slots[slot]);
  return same;
}

// Two epochs. Each rank has a GPU of its own.
Outcome train(Communicator& communicator, const Config& config, const History& history, DeviceKind kind) {
  test::SmallTraining training(communicator, config, history, kind);
  Outcome outcome;
  for (int64_t number = 0; number < 8; ++number) {
    training.run(number);
    // As a run does: what came of a step is read when the next one has been told.
    const auto until = number < 7 ? TrainingStep::Until::kWorkIsLeft : TrainingStep::Until::kAllIsDone;
    while (const auto result = training.step.result(until)) {
      outcome.losses.push_back(result->loss_sum);
      outcome.norms.push_back(result->gradient_norm);
      outcome.masked.push_back(result->masked);
    }
  }
  outcome.values = training.values();
  outcome.slots = training.slots();
  outcome.state_bytes = training.step.optimizer().state_bytes();
  return outcome;
}

std::vector<Outcome> train_in(int ranks, const Config& config, DeviceKind kind = DeviceKind::kCpu) {
  const History history;
  test::Threads one(1);  // the pool belongs to the process; ranks are to be beside each other, not in turn
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  test::run_ranks_well(ranks, [&](Communicator& communicator) {
    outcomes[static_cast<size_t>(communicator.rank())] = train(communicator, config, history, kind);
  });
  return outcomes;
}

// Equal to rounding. Adam at 1e-3 makes a rounding of a tiny gradient a whole step now and then.
void require_close(const Outcome& one, const Outcome& other) {
  REQUIRE(one.masked == other.masked);
  for (size_t step = 0; step < other.losses.size(); ++step) {
    REQUIRE(one.losses[step] == Approx(other.losses[step]).epsilon(1e-5));
    REQUIRE(one.norms[step] == Approx(other.norms[step]).epsilon(1e-4));
  }
  double largest = 0;
  for (size_t place = 0; place < other.values.size(); ++place) {
    largest = std::max<double>(largest, std::abs(one.values[place] - other.values[place]));
  }
  REQUIRE(largest < 2e-3);
  REQUIRE(largest > 0);  // else the other was not there
}

}  // namespace

TEST_CASE("two and three ranks with uneven batches train as one does", "[ranks]") {
  const Config config = test::small_config(false, false);
  const Outcome alone = train_in(1, config).front();
  for (const int ranks : {2, 3}) {
    INFO(ranks << " ranks");
    const std::vector<Outcome> outcomes = train_in(ranks, config);
    for (const Outcome& outcome : outcomes) REQUIRE(outcome == outcomes.front());
    require_close(outcomes.front(), alone);
  }
}

#ifdef ITEMLOOM_CUDA
TEST_CASE("GPUs that meet by NCCL train as one does", "[ranks][device][gpus]") {
  const Outcome alone = train_in(1, test::small_config(false, false), DeviceKind::kCuda).front();
  for (const bool sharded : {false, true}) {
    for (const int ranks : {2, 3}) {
      INFO(ranks << " ranks, sharded " << sharded);
      const std::vector<Outcome> outcomes = train_in(ranks, test::small_config(false, sharded), DeviceKind::kCuda);
      for (const Outcome& outcome : outcomes) REQUIRE(outcome.values == outcomes.front().values);
      require_close(outcomes.front(), alone);
    }
  }
}

namespace {

// Of a rank: its gradients, what an exchange in bf16 has made of them, and where.
struct Exchanged {
  std::vector<float> own, sums;
  std::vector<FlatRange> shares;
};

std::vector<Exchanged> exchange_rounded(int ranks, bool sharded) {
  Config config = test::small_config(false, sharded);
  config.model.layers = 1;
  std::vector<Exchanged> all(static_cast<size_t>(ranks));
  test::run_ranks_well(ranks, [&](Communicator& communicator) {
    Device device(DeviceKind::kCuda, communicator.rank());
    ModelInstance instance(device, config.model, kItems, kMaxLength, 1, communicator, false);
    const ParameterStore& store = instance.parameters();
    GradientSync sync(device, communicator, instance.gradients(), store, {.sharded = sharded, .rounded = true});
    Exchanged& mine = all[static_cast<size_t>(communicator.rank())];
    mine.own = test::random_floats(store.size(), static_cast<uint64_t>(communicator.rank() + 1));
    device.copy_from_host(mine.own.data(), store.gradients().data(), store.size());
    for (size_t index = store.infos().size(); index-- > 0;) sync.parameter_ready(static_cast<int>(index));
    sync.finish();
    mine.sums = test::on_host(device, store.gradients());
    mine.shares = sharded ? sync.shares() : std::vector<FlatRange>{{0, store.size()}};
    communicator.barrier();
  });
  return all;
}

}  // namespace

TEST_CASE("gradients that GPUs exchange in bf16 are rounded sums, the same on all ranks", "[ranks][device][gpus]") {
  for (const bool sharded : {false, true}) {
    for (const int ranks : {2, 3}) {
      CAPTURE(ranks, sharded);
      const std::vector<Exchanged> all = exchange_rounded(ranks, sharded);
      int64_t places = 0, wrong = 0, exact = 0;
      for (const Exchanged& rank : all) {
        for (const FlatRange& share : rank.shares) {
          for (int64_t i = share.begin; i < share.end; ++i) {
            double sum = 0, magnitudes = 0;
            for (const Exchanged& other : all) {
              sum += other.own[static_cast<size_t>(i)];
              magnitudes += std::abs(other.own[static_cast<size_t>(i)]);
            }
            const float got = rank.sums[static_cast<size_t>(i)];
            // Half a unit of the last place for each number and each sum on the way.
            const bool near = std::abs(got - sum) <= ranks * 0x1p-8 * magnitudes;
            wrong += !near || to_float(to_bf16(got)) != got;
            exact += got == static_cast<float>(sum);
            ++places;
          }
        }
        if (!sharded) REQUIRE(test::same_bits(rank.sums, all.front().sums));
      }
      REQUIRE(wrong == 0);
      REQUIRE(exact < places / 4);  // else nothing was rounded
      REQUIRE(places == std::ssize(all.front().own) * (sharded ? 1 : ranks));
    }
  }
}
#endif

TEST_CASE("with gradient shards the bits do not depend on the number of ranks", "[ranks]") {
  for (const bool sharded : {false, true}) {
    const Config config = test::small_config(true, sharded);
    const Outcome alone = train_in(1, config).front();
    for (const int ranks : {2, 4, 8}) {
      INFO(ranks << " ranks");
      for (const Outcome& outcome : train_in(ranks, config)) REQUIRE(outcome == alone);
    }
  }
}

TEST_CASE("an optimizer's state in slices gives the bits of a whole one, in less memory", "[ranks]") {
  for (const std::string name : {"adamw", "sgd", "rmsprop"}) {
    for (const int ranks : {2, 3}) {
      INFO(name << ", " << ranks << " ranks");
      Config whole = test::small_config(false, false), sliced = test::small_config(false, true);
      whole.optimizer.name = sliced.optimizer.name = name;
      whole.optimizer.momentum = sliced.optimizer.momentum = 0.9;  // of those that have one
      const std::vector<Outcome> expected = train_in(ranks, whole), outcomes = train_in(ranks, sliced);
      int64_t bytes = 0;
      for (const Outcome& outcome : outcomes) {
        REQUIRE(outcome == expected.front());
        REQUIRE(outcome.state_bytes < expected.front().state_bytes);
        bytes += outcome.state_bytes;
      }
      REQUIRE(bytes == expected.front().state_bytes);
    }
  }
}

TEST_CASE("a model of fewer blocks than ranks, where one rank owns everything, trains in slices, too", "[ranks]") {
  Config whole = test::small_config(false, false), sliced = test::small_config(false, true);
  whole.model.hidden_size = sliced.model.hidden_size = 4;
  const std::vector<Outcome> expected = train_in(3, whole), outcomes = train_in(3, sliced);
  int owners = 0;
  for (const Outcome& outcome : outcomes) {
    REQUIRE(outcome == expected.front());
    owners += outcome.state_bytes > 0;
  }
  REQUIRE(owners == 1);
}

TEST_CASE("a rank that fails in a step ends the others", "[ranks]") {
  const Config config = test::small_config(false, false);
  const History history;
  test::Threads one(1);
  const auto messages = test::run_ranks(3, [&](Communicator& communicator) {
    Device device;
    ModelInstance instance(device, config.model, kItems, kMaxLength, 1, communicator, false);
    TrainingStep step(device, communicator, instance, config, 8);
    StepBatch batch;
    batch.shard_ends = {0};
    batch.masked = 1;
    CHECK(communicator.rank() != 1, "rank 1 has no memory left");
    step.run(batch, 0);
  });
  REQUIRE(messages[0] == "rank 0 waits for a rank that has left");
  REQUIRE(messages[1] == "rank 1 has no memory left");
  REQUIRE(messages[2] == "rank 2 waits for a rank that has left");
}

TEST_CASE("a rank that unwinds in the middle of a step ends its own waits, and leaves it to others to say why",
          "[ranks]") {
  const Config config = test::small_config(false, false);
  std::vector<RankEnd> ends(2, RankEnd::kByWatch);
  std::vector<RankPhase> phases(2, RankPhase::kStarting);
  const auto messages = test::run_ranks(2, [&](Communicator& communicator) {
    const auto rank = static_cast<size_t>(communicator.rank());
    Device device;
    ModelInstance instance(device, config.model, kItems, kMaxLength, 1, communicator, false);
    communicator.status().enter(RankPhase::kComputing);
    if (rank == 0) {
      communicator.barrier();
      return;
    }
    {
      GradientSync sync(device, communicator, instance.gradients(), instance.parameters(), {});
      const auto parameters = static_cast<int>(instance.parameters().infos().size());
      for (int parameter = 0; parameter < parameters; ++parameter) sync.parameter_ready(parameter);
    }
    ends[rank] = communicator.status().end.load();
    phases[rank] = communicator.status().phase.load();
  });
  REQUIRE(messages[0] == "rank 0 waits for a rank that has left");
  REQUIRE(messages[1] == "");
  REQUIRE(ends[1] == RankEnd::kNone);
  REQUIRE(phases[1] == RankPhase::kComputing);
}

TEST_CASE("a number of ranks that does not divide the gradient shards is refused", "[ranks]") {
  const auto messages = test::run_ranks(
      3, [](Communicator& communicator) { shard_plan(test::small_config(true, false).training, communicator); });
  REQUIRE(messages[1] ==
          "training.bitwise_across_ranks needs a number of ranks that divides training.gradient_shards (8), not 3");
}

}  // namespace itemloom
