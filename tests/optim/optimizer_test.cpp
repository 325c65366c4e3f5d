#include "optim/optimizer.h"

#include <cmath>
#include <limits>

#include "kernels/elementwise.h"
#include "optim/schedule.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/gradcheck.h"
#include "tests/support/kernels.h"

namespace itemloom {
namespace {

// A matrix, which decays, and a vector, which does not.
ParameterStore small_store(Device& device) {
  ParameterStore store;
  store.add("layer.weight", 3, 5, {.mean = 1});
  store.add("layer.bias", 4, 0, {.mean = 1});
  store.allocate(device, 1);
  return store;
}

OptimizerConfig config_of(const std::string& name, double weight_decay, double clip_norm = 5) {
  OptimizerConfig config;
  config.name = name;
  config.weight_decay = weight_decay;
  config.clip_norm = clip_norm;
  return config;
}

// An optimizer of a small store on its own.
struct Stepper {
  explicit Stepper(const OptimizerConfig& config) : Stepper(config, own_device) {}
  Stepper(const OptimizerConfig& config, Device& on)
      : device(on), store(small_store(on)), optimizer(config, store, on), losses(on.allocate(sizeof(double))) {}

  StepDecision step(double learning_rate, double mean, double loss = 1) {
    const Vector<double> sums = losses.as<double>(1);
    device.copy_from_host(&loss, sums.data(), 1);
    optimizer.step(*communicator, learning_rate, mean, sums);
    StepDecision decision;
    device.copy_to_host(optimizer.decision().data(), &decision, 1);
    return decision;
  }
  void fill_gradients(float value) { run(device, Fill{.value = value, .y = store.gradients()}); }

  Device own_device;
  Device& device;
  ParameterStore store;
  Optimizer optimizer;
  DeviceBlock losses;
  std::unique_ptr<Communicator> communicator = make_self_communicator();
};

}  // namespace

TEST_CASE("weight decay leaves vectors alone, and a step zeroes the gradients", "[optim]") {
  for (const std::string name : {"adam", "adamw", "sgd", "rmsprop"}) {
    INFO(name);
    Stepper stepper(config_of(name, 0.5));
    const ParameterStore& store = stepper.store;
    stepper.step(0.1, 1);
    for (float value : store.tensor(0).flat()) REQUIRE(value < 1);
    for (float value : store.tensor(1).flat()) REQUIRE(value == 1);
    stepper.fill_gradients(2);
    stepper.step(0.1, 1);
    for (float gradient : store.gradients()) REQUIRE(gradient == 0);
    for (float value : store.tensor(1).flat()) REQUIRE(value < 1);
    REQUIRE(stepper.optimizer.steps() == 2);
  }
}

TEST_CASE("an optimizer keeps what its rule needs and nothing else", "[optim]") {
  const auto kept = [](const std::string& name, double momentum) {
    OptimizerConfig config = config_of(name, 0);
    config.momentum = momentum;
    const Stepper stepper(config);
    std::string names;
    for (const Optimizer::Slot& slot : stepper.optimizer.slots()) names += slot.name + " ";
    REQUIRE(stepper.optimizer.state_bytes() ==
            std::ssize(stepper.optimizer.slots()) * stepper.store.size() * static_cast<int64_t>(sizeof(float)));
    return names;
  };
  REQUIRE(kept("adamw", 0) == "first_moment second_moment ");
  REQUIRE(kept("sgd", 0) == "");
  REQUIRE(kept("sgd", 0.9) == "velocity ");
  REQUIRE(kept("rmsprop", 0) == "square ");
  REQUIRE(kept("rmsprop", 0.9) == "square velocity ");
}

TEST_CASE("the first Adam step is the learning rate against the gradient's sign, whatever its scale", "[optim]") {
  Stepper stepper(config_of("adamw", 0));
  stepper.fill_gradients(-300);
  stepper.step(0.01, 1.0 / 7);
  for (float value : stepper.store.tensor(0).flat()) REQUIRE(value == Approx(1.01f));
}

TEST_CASE("the gradient norm is of the scaled gradient, which is clipped to it", "[optim]") {
  for (const double clip : {0.0, 3.0, 1.0}) {
    Stepper stepper(config_of("sgd", 0, clip));
    stepper.store.gradients()[0] = 3;
    stepper.store.gradients()[6] = 4;
    REQUIRE(stepper.step(1, 0.5).gradient_norm == Approx(2.5));
    REQUIRE(stepper.store.values()[0] == Approx(clip == 1 ? 1 - 1.5 / 2.5 : 1 - 1.5));
  }
}

TEST_CASE("a step with a loss or gradient that is not finite leaves no trace but zero gradients", "[optim][device]") {
  for (const std::string name : {"adamw", "sgd", "rmsprop"}) {
    test::on_every_device([&](Device& device) {
      INFO(name);
      // The second of three steps is skipped in one, and not there in the other.
      std::vector<float> with, without;
      int64_t with_steps = 0, without_steps = 0;
      for (const bool plant : {true, false}) {
        Stepper stepper(config_of(name, 0.01), device);
        stepper.fill_gradients(2);
        REQUIRE_FALSE(stepper.step(0.1, 1).skipped);
        if (plant) {
          for (const bool in_loss : {false, true}) {
            stepper.fill_gradients(in_loss ? 2 : std::numeric_limits<float>::quiet_NaN());
            const StepDecision decision = stepper.step(0.1, 1, in_loss ? std::numeric_limits<double>::infinity() : 1);
            REQUIRE(decision.skipped);
            REQUIRE(std::isfinite(decision.gradient_norm) == in_loss);
          }
        }
        stepper.fill_gradients(-1);
        stepper.step(0.1, 1);
        (plant ? with : without) = test::on_host(device, stepper.store.values());
        (plant ? with_steps : without_steps) = stepper.optimizer.steps();
      }
      REQUIRE(test::same_bits(with, without));
      REQUIRE(with_steps == 2);
      REQUIRE(without_steps == 2);
    });
  }
}

TEST_CASE("schedules warm up, fall and end where they say", "[optim]") {
  ScheduleConfig schedule;
  schedule.warmup_steps = 10;
  REQUIRE(schedule_factor(schedule, 0, 100) == Approx(0.1));
  REQUIRE(schedule_factor(schedule, 9, 100) == Approx(1));
  REQUIRE(schedule_factor(schedule, 5000, 100) == 1);
  for (const std::string name : {"linear", "cosine"}) {
    INFO(name);
    schedule.name = name;
    schedule.final_share = 0.2;
    REQUIRE(schedule_factor(schedule, 4, 110) == Approx(0.5));
    REQUIRE(schedule_factor(schedule, 10, 110) == Approx(1));
    REQUIRE(schedule_factor(schedule, 109, 110) == Approx(0.2));
    REQUIRE(schedule_factor(schedule, 4000, 110) == Approx(0.2));
    double before = 1;
    for (int64_t step = 10; step < 110; ++step) {
      REQUIRE(schedule_factor(schedule, step, 110) <= before);
      before = schedule_factor(schedule, step, 110);
    }
  }
  // Half way of the fall: both are half way down.
  schedule.warmup_steps = 0;
  REQUIRE(schedule_factor(schedule, 50, 101) == Approx(0.6));
}

}  // namespace itemloom
