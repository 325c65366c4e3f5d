// Training steps by graphs against steps kernel by kernel, on a GPU.
#ifdef ITEMLOOM_CUDA

#include "train/piece_graphs.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/reduce.h"
#include "tests/support/catch.h"
#include "tests/support/small_training.h"
#include "tests/support/thread_group.h"

namespace itemloom {
namespace {

using test::SmallTraining;
using Until = TrainingStep::Until;

constexpr int64_t kSteps = 8;  // two epochs, whose last batch is short

// Several pieces a step, of few sizes.
Config config_of(bool graphs, const std::string& precision = "fp32", bool sharded = false) {
  Config config = test::small_config(false, sharded);
  config.model.layers = 1;
  config.model.hidden_size = 32;
  config.training.precision = precision;
  config.training.cuda_graphs = graphs;
  config.training.micro_batch_tokens = 32;
  config.training.graph_bucket = 32;
  return config;
}

struct Outcome : test::Outcome {
  PieceGraphs::Counts counts;

  // As a run does: what came of a step is read when the next one has been told.
  void run(SmallTraining& training, int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      training.run(number);
      take(training, Until::kWorkIsLeft);
    }
    finish(training);
    counts = training.step.graph_counts();
  }
};

std::vector<Outcome> train(int ranks, const Config& config) {
  const test::History history;
  test::Threads one(1);
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  test::run_ranks_well(ranks, [&](Communicator& communicator) {
    SmallTraining training(communicator, config, history, DeviceKind::kCuda);
    outcomes[static_cast<size_t>(communicator.rank())].run(training, 0, kSteps);
  });
  return outcomes;
}

void require_same(const Outcome& one, const Outcome& other) {
  REQUIRE(test::same_bits(one.values, other.values));
  REQUIRE(one.results.size() == other.results.size());
  for (size_t step = 0; step < one.results.size(); ++step) {
    REQUIRE(one.results[step].loss_sum == other.results[step].loss_sum);
    REQUIRE(one.results[step].gradient_norm == other.results[step].gradient_norm);
  }
}

// To rounding: with other numbers of rows cuBLAS may choose other algorithms. A mask of another step's dropout would
// change a loss by far more.
void require_close(const Outcome& one, const Outcome& other, double tolerance) {
  REQUIRE(one.results.size() == kSteps);
  for (size_t step = 0; step < kSteps; ++step) {
    CAPTURE(step);
    REQUIRE(one.results[step].masked == other.results[step].masked);
    REQUIRE(one.results[step].rows == other.results[step].rows);
    REQUIRE_FALSE(one.results[step].skipped);
    REQUIRE(one.results[step].loss_sum == Approx(other.results[step].loss_sum).epsilon(tolerance));
    REQUIRE(one.results[step].gradient_norm == Approx(other.results[step].gradient_norm).epsilon(10 * tolerance));
  }
  double largest = 0;
  for (size_t place = 0; place < other.values.size(); ++place) {
    largest = std::max<double>(largest, std::abs(one.values[place] - other.values[place]));
  }
  REQUIRE(largest < 2e-3);
}

}  // namespace

TEST_CASE("steps by graphs are those without, in every precision, and twice the same to the bit",
          "[piece_graphs][device]") {
  for (const auto& [precision, tolerance] : {std::pair("fp32", 1e-5), {"tf32", 1e-4}, {"bf16", 1e-3}}) {
    CAPTURE(precision);
    const Outcome without = train(1, config_of(false, precision)).front();
    REQUIRE(without.counts.launches == 0);
    const Outcome with = train(1, config_of(true, precision)).front();
    require_close(with, without, tolerance);
#ifdef ITEMLOOM_CUDA_EMULATED
    // Its products have one algorithm, and what is filled in adds zeros at the ends of sums.
    require_same(with, without);
#endif
    REQUIRE(with.counts.eager > 0);
    REQUIRE(with.counts.captured > 0);
    REQUIRE(with.counts.replayed >= kSteps / 2);
    REQUIRE(with.counts.launches == with.counts.captured + with.counts.replayed);
    if (precision == std::string("bf16")) require_same(train(1, config_of(true, precision)).front(), with);
  }
}

TEST_CASE("steps by graphs go on to the bit", "[piece_graphs][device]") {
  const Config config = config_of(true);
  const Outcome whole = train(1, config).front();
  const test::History history;
  const auto communicator = make_self_communicator();
  Outcome halves;
  {
    SmallTraining first(*communicator, config, history, DeviceKind::kCuda);
    halves.run(first, 0, kSteps / 2);
  }
  SmallTraining second(*communicator, config, history, DeviceKind::kCuda);
  second.device.copy_from_host(halves.values.data(), second.instance.parameters().values().data(),
                               static_cast<int64_t>(halves.values.size()));
  size_t slot = 0;
  second.step.scatter_slots([&](const std::string&, Vector<float> whole_slot) {
    std::copy(halves.slots[slot].begin(), halves.slots[slot].end(), whole_slot.begin());
    ++slot;
  });
  second.step.optimizer().set_steps(halves.optimizer_steps);
  halves.run(second, kSteps / 2, kSteps);
  require_same(halves, whole);
}

TEST_CASE("graphs of ranks end where a bucket of gradients is complete", "[piece_graphs][device][gpus]") {
  for (const bool sharded : {false, true}) {
    CAPTURE(sharded);
    const std::vector<Outcome> without = train(2, config_of(false, "fp32", sharded));
    const std::vector<Outcome> with = train(2, config_of(true, "fp32", sharded));
    for (size_t rank = 0; rank < 2; ++rank) {
      require_close(with[rank], without[rank], 1e-5);
      REQUIRE(test::same_bits(with[rank].values, with[0].values));
      REQUIRE(with[rank].counts.replayed > 0);
      REQUIRE(with[rank].counts.launches > with[rank].counts.captured + with[rank].counts.replayed);
    }
  }
}

TEST_CASE("a graph whose working memory has moved is captured anew, and the size used least recently goes",
          "[piece_graphs][device]") {
  Device device(DeviceKind::kCuda);
  ParameterStore store;
  store.add("weight", 4, 4, {});
  store.allocate(device, 1);
  const auto communicator = make_self_communicator();
  OwnBuffer buffer(DeviceKind::kCuda, store.size());
  GradientSync sync(device, *communicator, buffer, store, {});
  PieceGraphs graphs(device, sync);
  const DeviceBlock numbers = device.allocate(4 << 20);
  const std::vector<float> ones(1 << 20, 1.0f);
  device.copy_from_host(ones.data(), numbers.as<float>(1 << 20).data(), 1 << 20);
  const DeviceBlock sum = device.allocate(64);
  const auto add_rows = [&](int64_t rows) {
    run(device, ColumnSum<float>{.x = Matrix<const float>(numbers.as<float>(rows * 16).data(), rows, 16),
                                 .y = sum.as<float>(16)});
  };
  const auto piece = [&](int64_t number) {
    graphs.run({.rows = number, .masked = 1, .sequences = 1, .reports = false},
               [&](FunctionRef<void(int)>) { add_rows(100); });
  };
  const auto counted = [&] {
    const PieceGraphs::Counts& counts = graphs.counts();
    return std::vector<int64_t>{counts.eager, counts.captured, counts.replayed};
  };
  for (int turn = 0; turn < 3; ++turn) piece(0);
  REQUIRE(counted() == std::vector<int64_t>{1, 1, 1});
  add_rows(1 << 16);
  for (int turn = 0; turn < 2; ++turn) piece(0);
  REQUIRE(counted() == std::vector<int64_t>{1, 2, 2});
  const auto most = static_cast<int64_t>(PieceGraphs::kMostSizes);
  for (int64_t number = 1; number < most; ++number) piece(number);
  piece(0);
  piece(most);  // in the place of 1
  piece(0);
  REQUIRE(counted() == std::vector<int64_t>{most + 1, 2, 4});
  piece(2);
  piece(1);
  REQUIRE(counted() == std::vector<int64_t>{most + 2, 3, 4});
  const int64_t rows = 100 * (5 + (most - 1) + 1 + 1 + 1 + 2) + (1 << 16);
  REQUIRE(test::on_host(device, sum.as<float>(16)) == std::vector<float>(16, static_cast<float>(rows)));
}

TEST_CASE("a graph refuses what would be done once and not at every launch", "[piece_graphs][device]") {
  Device device(DeviceKind::kCuda);
  const DeviceBlock block = device.allocate(1 << 20);
  const float one = 1;
  {
    const DeviceGraph graph(device);
    REQUIRE_THROWS_WITH(device.copy_from_host(&one, block.as<float>(1).data(), 1),
                        "a copy from the host cannot be part of a graph");
    const Matrix<const float> x(block.as<float>(1 << 18).data(), 1 << 14, 16);
    REQUIRE_THROWS_WITH(run(device, ColumnSum<float>{.x = x, .y = block.as<float>(16)}),
                        "growing working memory cannot be part of a graph");
  }
  // A graph that was given up leaves the device as it was.
  device.copy_from_host(&one, block.as<float>(1).data(), 1);
  REQUIRE(test::on_host(device, block.as<float>(1)) == std::vector<float>{1});
}

}  // namespace itemloom

#endif
