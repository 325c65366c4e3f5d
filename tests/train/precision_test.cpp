// Training and ranking in bf16 and tf32 against fp32, on a GPU.
#ifdef ITEMLOOM_CUDA

#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/elementwise.h"
#include "tests/support/catch.h"
#include "tests/support/gradcheck.h"
#include "tests/support/sequences.h"
#include "train/scorers.h"
#include "train/trainer.h"

namespace itemloom {
namespace {

constexpr int64_t kItems = 50;
constexpr int64_t kMaxLength = 8;
constexpr int64_t kSteps = 20;

Config small_config() {
  Config config;
  config.model.hidden_size = 16;
  config.model.heads = 2;
  config.model.layers = 1;
  config.training.batch_size = 6;
  config.optimizer.learning_rate = 1e-2;
  return config;
}

// Histories that go up by one, so that there is something to learn.
struct Histories : test::Sequences {
  Histories() {
    for (int64_t sequence = 0; sequence < 24; ++sequence) {
      const int64_t length = 3 + test::random_int(3, sequence, kMaxLength - 2),
                    first = test::random_int(4, sequence, 40);
      for (int64_t place = 0; place < length; ++place) items.push_back(static_cast<int32_t>(first + place));
      end_sequence();
    }
  }
};

struct Outcome {
  std::vector<double> losses;  // means, step by step
  std::vector<float> values, scores;
};

Outcome train(Precision precision) {
  const Config config = small_config();
  const Histories histories;
  Device device(DeviceKind::kCuda, 0, precision);
  ModelInstance instance(device, config.model, kItems, kMaxLength, 1);
  Loader loader(histories.all_items(), histories.windows(kMaxLength), Masking(config.masking, 1, kItems),
                {.max_length = kMaxLength,
                 .batch_sequences = config.training.batch_size,
                 .batch_tokens = 0,
                 .piece_tokens = 1024,
                 .seed = 1});
  const auto communicator = make_self_communicator();
  TrainingStep step(device, *communicator, instance, config, kSteps);
  Outcome outcome;
  for (int64_t number = 0; number < kSteps; ++number) {
    step.run(loader.load(number / 4, number % 4), number);
    const StepResult result = step.result(TrainingStep::Until::kAllIsDone).value();
    REQUIRE_FALSE(result.skipped);
    outcome.losses.push_back(result.loss_sum / static_cast<double>(result.masked));
  }
  outcome.values = test::on_host(device, instance.parameters().values());
  ModelScorer scorer(device, instance.model(), kMaxLength);
  std::vector<History> asked;
  const Windows windows = histories.windows(kMaxLength);
  for (int64_t index = 0; index < windows.size(); ++index) {
    asked.emplace_back(histories.items.data() + windows[index].begin, windows[index].length);
  }
  const int64_t count = windows.size() * kItems;
  const DeviceBlock scores = device.allocate(count * static_cast<int64_t>(sizeof(float)));
  scorer.score(asked, Matrix<float>(scores.as<float>(count).data(), windows.size(), kItems));
  outcome.scores = test::on_host(device, scores.as<float>(count));
  return outcome;
}

// |a - b| / |b|
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, whole = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    whole += double{b[i]} * b[i];
  }
  return std::sqrt(difference / whole);
}

}  // namespace

TEST_CASE("twenty steps in bf16 and tf32 go the way of fp32, bf16 to the same bits twice", "[precision][device]") {
  const Outcome fp32 = train(Precision::kFp32);
  // Something is learned: the last epoch's four steps beside the first one's.
  REQUIRE(std::accumulate(fp32.losses.end() - 4, fp32.losses.end(), 0.0) <
          0.95 * std::accumulate(fp32.losses.begin(), fp32.losses.begin() + 4, 0.0));
  for (const auto& [precision, tolerance] : {std::pair(Precision::kBf16, 0.02), {Precision::kTf32, 0.002}}) {
    const Outcome outcome = train(precision);
    if (precision == Precision::kBf16) {
      const Outcome again = train(precision);
      REQUIRE(outcome.losses == again.losses);
      REQUIRE(test::same_bits(outcome.values, again.values));
      REQUIRE(test::same_bits(outcome.scores, again.scores));
    }
    for (size_t step = 0; step < fp32.losses.size(); ++step) {
      INFO("step " << step << ": " << outcome.losses[step] << ", in fp32 " << fp32.losses[step]);
      REQUIRE(std::abs(outcome.losses[step] - fp32.losses[step]) <= tolerance * fp32.losses[step]);
    }
    REQUIRE(outcome.losses != fp32.losses);
    INFO("scores " << distance(outcome.scores, fp32.scores));
    REQUIRE(distance(outcome.scores, fp32.scores) <= 5 * tolerance);
  }
}

TEST_CASE("parameters' copy in bf16 is what their values round to, from the start and after every step",
          "[precision][device]") {
  const Config config = small_config();
  Device device(DeviceKind::kCuda, 0, Precision::kBf16);
  ModelInstance instance(device, config.model, kItems, kMaxLength, 1);
  ParameterStore& store = instance.parameters();
  const auto require_rounded = [&] {
    const std::vector<float> values = test::on_host(device, store.values());
    const std::vector<Bf16> copy = test::on_host(device, store.bf16_values());
    for (size_t i = 0; i < values.size(); ++i) REQUIRE(copy[i].bits == to_bf16(values[i]).bits);
  };
  require_rounded();
  device.copy_from_host(test::random_floats(store.size(), 1).data(), store.values().data(), store.size());
  instance.values_changed();
  require_rounded();
  Device fp32(DeviceKind::kCuda);
  REQUIRE_FALSE(ModelInstance(fp32, config.model, kItems, kMaxLength, 1).parameters().bf16_values());
}

TEST_CASE("a tensor refuses to be read as what it does not hold", "[precision][device]") {
  Device device(DeviceKind::kCuda, 0, Precision::kBf16);
  Arena arena(device.kind());
  Tape tape(device, arena, Mode::kTraining);
  const Tensor x = tape.matrix(2, 3);
  REQUIRE_THROWS_WITH(x.matrix(), "a tensor of (2, 3) holds bf16, not float");
  REQUIRE_THROWS_WITH(tape.gradient_matrix(x), "a tensor of (2, 3) holds bf16, not float");
  ParameterStore store;
  store.add("weight", 3, 3, {});
  store.allocate(device, 1);
  REQUIRE_THROWS_WITH(store.tensor(0).matrix<Bf16>(), "a tensor of (3, 3) holds float, not bf16");
  REQUIRE_THROWS_WITH(ops::add(tape, store.tensor(0), store.tensor(0)), "a tensor of (3, 3) holds float, not bf16");
  REQUIRE(store.tensor(0).factor<Bf16>().data() == store.bf16_values().data());
}

TEST_CASE("the CPU has no precision but fp32", "[precision]") {
  REQUIRE_THROWS_WITH(Device(DeviceKind::kCpu, 0, Precision::kBf16), "the CPU computes in fp32 only");
  REQUIRE_THROWS_WITH(Device(DeviceKind::kCpu, 0, Precision::kTf32), "the CPU computes in fp32 only");
}

}  // namespace itemloom

#endif
