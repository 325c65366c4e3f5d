// The model against PyTorch (tests/golden/make_bert4rec_golden.py), and what it can learn.

#include "layers/models/bert4rec.h"

#include <cmath>
#include <vector>

#include "core/hdf5.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "optim/optimizer.h"
#include "tests/support/catch.h"
#include "tests/support/gradcheck.h"

namespace itemloom {
namespace {

// The batch that the golden file was made with: [MASK] is 13.
struct GoldenBatch {
  std::vector<int32_t> items = {3, 13, 12, 13, 13, 13, 2, 13, 9, 11, 4, 13, 8, 10, 13};
  std::vector<int32_t> positions = {3, 4, 5, 6, 6, 0, 1, 2, 3, 4, 5, 6, 4, 5, 6};
  std::vector<int64_t> offsets = {0, 4, 5, 12, 15};
  std::vector<uint32_t> row_ids = {0, 1, 2, 3, 7, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};
  std::vector<int64_t> masked_rows = {1, 3, 4, 5, 7, 11, 14};
  std::vector<uint32_t> masked_row_ids = {1, 3, 7, 14, 16, 20, 23};
  std::vector<int32_t> targets = {1, 5, 7, 0, 2, 6, 1};

  MaskedBatch on_device(Tape& tape) const {
    return {.items = tape.on_device(items),
            .positions = tape.on_device(positions),
            .sequence_offsets = tape.on_device(offsets),
            .row_ids = tape.on_device(row_ids),
            .masked_rows = tape.on_device(masked_rows),
            .masked_row_ids = tape.on_device(masked_row_ids)};
  }
};

ModelConfig golden_config(const std::string& name) {
  ModelConfig config;
  config.hidden_size = 16;
  config.layers = 2;
  config.heads = 2;
  config.inner_size = 24;
  config.dropout = config.attention_dropout = 0;
  config.norm_epsilon = 1e-5;
  config.norm = name == "pre" ? "pre" : "post";
  config.activation = name == "pre" ? "gelu" : name == "post" ? "gelu_tanh" : "relu";
  config.tied_output = name != "post";
  config.head_transform = name != "bare";
  config.output_bias = name != "post";
  return config;
}

}  // namespace

TEST_CASE("logits, loss and every gradient agree with PyTorch", "[bert4rec][device]") {
  const Hdf5Reader golden(std::string(ITEMLOOM_SOURCE_DIR) + "/tests/golden/bert4rec.h5");
  const GoldenBatch data;
  test::on_every_device([&](Device& device) {
    for (const std::string name : {"pre", "post", "bare"}) {
      INFO(name);
      ParameterStore store;
      const Bert4Rec model(Scope(store), golden_config(name), 13, 7);
      store.allocate(device, 1);
      for (const ParameterInfo& info : store.infos()) {
        const auto values = golden.read<float>("/" + name + "/value/" + info.name);
        REQUIRE(static_cast<int64_t>(values.size()) == info.size);
        device.copy_from_host(values.data(), store.values().data() + info.offset, info.size);
      }
      // Nothing in the golden file is left unused.
      REQUIRE(golden.children("/" + name + "/value").size() == store.infos().size());

      Arena arena(device.kind());
      {
        Tape tape(device, arena, Mode::kInference);
        const Tensor hidden = model.encode(tape, data.on_device(tape));
        const Tensor logits = tape.matrix(7, 13);
        run(device, Gemm<float>{.a = hidden.matrix(),
                                .transpose_a = false,
                                .b = model.output_table(),
                                .transpose_b = true,
                                .bias = model.output_bias(),
                                .c = logits.matrix(),
                                .accumulate = false});
        REQUIRE(test::worst_error(test::on_host(device, logits.flat()), golden.read<double>("/" + name + "/logits")) <
                2e-6);
      }
      arena.reset();
      Tape tape(device, arena, Mode::kTraining);
      const Vector<double> loss = model.loss(tape, data.on_device(tape), tape.on_device(data.targets));
      tape.backward();
      REQUIRE(test::on_host(device, loss)[0] == Approx(golden.read<double>("/" + name + "/loss")[0]).epsilon(1e-6));
      for (const ParameterInfo& info : store.infos()) {
        INFO(info.name);
        const auto expected = golden.read<double>("/" + name + "/gradient/" + info.name);
        const Vector<float> actual = store.gradients().slice(info.offset, info.size);
        REQUIRE(test::worst_error(test::on_host(device, actual), expected) < 5e-6);
      }
    }
  });
}

#ifdef ITEMLOOM_CUDA
namespace {

constexpr int64_t kSteps = 20;

// From the golden file's parameters on.
struct GoldenSteps {
  std::vector<double> losses;
  std::vector<float> gradients;  // of the first step
  std::vector<float> values;     // after the last
  std::vector<ParameterInfo> infos;
};

GoldenSteps golden_steps(const Hdf5Reader& golden, const std::string& name, Precision precision) {
  const GoldenBatch data;
  Device device(DeviceKind::kCuda, 0, precision);
  ParameterStore store;
  const Bert4Rec model(Scope(store), golden_config(name), 13, 7);
  store.allocate(device, 1);
  for (const ParameterInfo& info : store.infos()) {
    const auto values = golden.read<float>("/" + name + "/value/" + info.name);
    device.copy_from_host(values.data(), store.values().data() + info.offset, info.size);
  }
  OptimizerConfig adam;
  adam.weight_decay = adam.clip_norm = 0;
  Optimizer optimizer(adam, store, device);
  const auto communicator = make_self_communicator();
  Arena arena(device.kind());
  GoldenSteps steps{.losses = {}, .gradients = {}, .values = {}, .infos = store.infos()};
  for (int64_t step = 0; step < kSteps; ++step) {
    if (store.bf16_values()) run(device, Convert<float, Bf16>{.x = store.values(), .y = store.bf16_values()});
    arena.reset();
    Tape tape(device, arena, Mode::kTraining);
    const Vector<double> loss = model.loss(tape, data.on_device(tape), tape.on_device(data.targets));
    tape.backward();
    steps.losses.push_back(test::on_host(device, loss)[0]);
    if (step == 0) steps.gradients = test::on_host(device, store.gradients());
    optimizer.step(*communicator, 0.01, 1, loss);
  }
  steps.values = test::on_host(device, store.values());
  return steps;
}

template <class A, class B>
double distance(const A* a, const B* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum);
}

}  // namespace

// A plain version computes in double, stores what is bf16 by README's table after each op, and fuses nothing (the
// golden file's generator, which has its errors). Tf32 has three bits more, and only products' factors lose any.
TEST_CASE("bf16 errs at most twice as much as a plain version in a step and after twenty",
          "[bert4rec][precision][device]") {
  const Hdf5Reader golden(std::string(ITEMLOOM_SOURCE_DIR) + "/tests/golden/bert4rec.h5");
  for (const std::string name : {"pre", "post"}) {
    INFO(name);
    const auto number = [&](const std::string& what) { return golden.read<double>("/" + name + "/" + what)[0]; };
    const GoldenSteps fp32 = golden_steps(golden, name, Precision::kFp32);
    const GoldenSteps tf32 = golden_steps(golden, name, Precision::kTf32);
    const GoldenSteps bf16 = golden_steps(golden, name, Precision::kBf16);
    REQUIRE(std::abs(tf32.losses[0] - number("loss")) <= 0.5 * number("bf16_error_of_loss"));
    REQUIRE(std::abs(bf16.losses[0] - number("loss")) <= 2 * number("bf16_error_of_loss"));
    REQUIRE(distance(bf16.losses.data(), fp32.losses.data(), kSteps) <= 2 * number("bf16_error_of_losses"));
    REQUIRE((tf32.losses != fp32.losses && bf16.losses != fp32.losses));
    for (const ParameterInfo& info : fp32.infos) {
      INFO(info.name);
      const auto gradient = golden.read<double>("/" + name + "/gradient/" + info.name);
      const double plain = number("bf16_error/" + info.name);
      REQUIRE(distance(tf32.gradients.data() + info.offset, gradient.data(), info.size) <= 0.5 * plain);
      REQUIRE(distance(bf16.gradients.data() + info.offset, gradient.data(), info.size) <= 2 * plain);
      // The gradients of the keys' biases are zero, which a rounding makes a whole step of Adam: they walk at random.
      const float *values = bf16.values.data() + info.offset, *expected = fp32.values.data() + info.offset;
      const int64_t third = info.size / 3;
      const double far =
          info.name.ends_with("qkv.bias")
              ? std::hypot(distance(values, expected, third), distance(values + 2 * third, expected + 2 * third, third))
              : distance(values, expected, info.size);
      REQUIRE(far <= 2 * number("bf16_error_after_steps/" + info.name));
    }
  }
}
#endif

TEST_CASE("a model learns one batch by heart", "[bert4rec]") {
  const GoldenBatch data;
  for (const std::string name : {"pre", "post"}) {
    ModelConfig config = golden_config(name);
    config.dropout = config.attention_dropout = 0;
    ParameterStore store;
    const Bert4Rec model(Scope(store), config, 13, 7);
    Device device;
    store.allocate(device, 3);
    OptimizerConfig adam;
    adam.weight_decay = 0;
    Optimizer optimizer(adam, store, device);
    const auto communicator = make_self_communicator();
    Arena arena;
    double loss = 0;
    for (int step = 0; step < 300; ++step) {
      arena.reset();
      Tape tape(device, arena, Mode::kTraining, 1, static_cast<uint32_t>(step));
      const Vector<double> loss_sum = model.loss(tape, data.on_device(tape), tape.on_device(data.targets));
      loss = loss_sum[0] / 7;
      tape.backward();
      optimizer.step(*communicator, 0.01, 1.0 / 7, loss_sum);
    }
    INFO(name << ": " << loss);
    REQUIRE(loss < 0.01);
  }
}

}  // namespace itemloom
