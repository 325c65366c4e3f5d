// Training and ranking on a GPU: in fp32 against the CPU, in bf16 and tf32 against fp32.
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
  std::vector<ParameterInfo> parameters;
  std::vector<double> losses;        // means, step by step
  std::vector<float> gradient;       // of the first step, to a factor that all parameters share
  std::vector<float> begin, values;  // of the parameters, before the first step and after the last
  std::vector<float> scores;
};

Outcome train(DeviceKind kind, Precision precision) {
  const Config config = small_config();
  const Histories histories;
  Device device(kind, 0, precision);
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
  outcome.parameters = instance.parameters().infos();
  outcome.begin = test::on_host(device, instance.parameters().values());
  for (int64_t number = 0; number < kSteps; ++number) {
    step.run(loader.load(number / 4, number % 4), number);
    const StepResult result = step.result(TrainingStep::Until::kAllIsDone).value();
    REQUIRE_FALSE(result.skipped);
    outcome.losses.push_back(result.loss_sum / static_cast<double>(result.masked));
    // Adam's first moment began at zero: after one step it is the gradient, times what 1 - beta1 and clipping make.
    if (number == 0) outcome.gradient = test::on_host(device, step.optimizer().slots().front().values);
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

// |a - b| / |b - from| in the places of a range; `from` empty: zeros.
double distance(const std::vector<float>& a, const std::vector<float>& b, FlatRange range,
                const std::vector<float>& from = {}) {
  double difference = 0, whole = 0;
  for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i) {
    const double way = double{b[i]} - (from.empty() ? 0.0 : from[i]);
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    whole += way * way;
  }
  return std::sqrt(difference / whole);
}

struct Tolerances {
  double losses;     // of each step
  double gradients;  // of each parameter after the first step, by its norm
  double values;     // of all parameters after the last step, by the way they have gone
  double parameter;  // of each of them, but the keys' biases
  double scores;
};

void require_close(const Outcome& outcome, const Outcome& expected, const Tolerances& tolerances) {
  for (size_t step = 0; step < expected.losses.size(); ++step) {
    INFO("step " << step << ": " << outcome.losses[step] << ", not " << expected.losses[step]);
    REQUIRE(std::abs(outcome.losses[step] - expected.losses[step]) <= tolerances.losses * expected.losses[step]);
  }
  for (const ParameterInfo& parameter : expected.parameters) {
    const FlatRange range{parameter.offset, parameter.offset + parameter.size};
    INFO(parameter.name);
    REQUIRE(distance(outcome.gradient, expected.gradient, range) <= tolerances.gradients);
    // The gradients of the keys' biases are zero, which a rounding makes a whole step of Adam: they walk at random.
    const int64_t third = parameter.name.ends_with("qkv.bias") ? parameter.size / 3 : parameter.size;
    REQUIRE(distance(outcome.values, expected.values, {range.begin, range.begin + third}, expected.begin) <=
            tolerances.parameter);
    REQUIRE(distance(outcome.values, expected.values, {range.end - third, range.end}, expected.begin) <=
            tolerances.parameter);
  }
  const FlatRange all{0, std::ssize(expected.values)}, cases{0, std::ssize(expected.scores)};
  REQUIRE(distance(outcome.values, expected.values, all, expected.begin) <= tolerances.values);
  REQUIRE(distance(outcome.scores, expected.scores, cases) <= tolerances.scores);
}

}  // namespace

TEST_CASE("twenty steps on a GPU go the way of the CPU, and every gradient is the CPU's", "[precision][device]") {
  const Outcome cpu = train(DeviceKind::kCpu, Precision::kFp32);
  // Something is learned: the last epoch's four steps beside the first one's.
  REQUIRE(std::accumulate(cpu.losses.end() - 4, cpu.losses.end(), 0.0) <
          0.95 * std::accumulate(cpu.losses.begin(), cpu.losses.begin() + 4, 0.0));
  const Outcome gpu = train(DeviceKind::kCuda, Precision::kFp32);
  require_close(gpu, cpu, {.losses = 1e-5, .gradients = 1e-5, .values = 1e-3, .parameter = 1e-5, .scores = 1e-5});
  REQUIRE_FALSE(test::same_bits(gpu.values, cpu.values));  // else the GPU was not there
}

TEST_CASE("twenty steps in bf16 and tf32 go the way of fp32, bf16 to the same bits twice", "[precision][device]") {
  const Outcome fp32 = train(DeviceKind::kCpu, Precision::kFp32);
  const Outcome tf32 = train(DeviceKind::kCuda, Precision::kTf32);
  require_close(tf32, fp32, {.losses = 0.002, .gradients = 0.003, .values = 0.02, .parameter = 0.1, .scores = 0.005});
  REQUIRE(tf32.losses != fp32.losses);
  // A rounding to bf16 is up to 0.4 % of a number; bert4rec_test.cpp says what that may cost.
  const Outcome bf16 = train(DeviceKind::kCuda, Precision::kBf16);
  require_close(bf16, fp32, {.losses = 0.02, .gradients = 0.02, .values = 0.2, .parameter = 0.2, .scores = 0.05});
  REQUIRE(distance(bf16.gradient, fp32.gradient, {0, std::ssize(fp32.gradient)}) > 1e-3);
  const Outcome again = train(DeviceKind::kCuda, Precision::kBf16);
  REQUIRE(bf16.losses == again.losses);
  REQUIRE(test::same_bits(bf16.values, again.values));
  REQUIRE(test::same_bits(bf16.scores, again.scores));
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
