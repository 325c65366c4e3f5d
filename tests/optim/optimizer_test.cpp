#include "optim/optimizer.h"

#include <cmath>
#include <limits>

#include "optim/schedule.h"
#include "tests/support/catch.h"
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

}  // namespace

TEST_CASE("weight decay leaves vectors alone, and a step zeroes the gradients", "[optim]") {
  for (const std::string name : {"adam", "adamw", "sgd", "rmsprop"}) {
    INFO(name);
    Device device;
    ParameterStore store = small_store(device);
    OptimizerConfig config;
    config.name = name;
    config.weight_decay = 0.5;
    Optimizer optimizer(config, store, device);
    optimizer.step(0.1, 1);
    for (float value : store.tensor(0).flat()) REQUIRE(value < 1);
    for (float value : store.tensor(1).flat()) REQUIRE(value == 1);
    for (float& gradient : store.gradients()) gradient = 2;
    optimizer.step(0.1, 1);
    for (float gradient : store.gradients()) REQUIRE(gradient == 0);
    for (float value : store.tensor(1).flat()) REQUIRE(value < 1);
    REQUIRE(optimizer.steps() == 2);
  }
}

TEST_CASE("the first Adam step is the learning rate against the gradient's sign, whatever its scale", "[optim]") {
  Device device;
  ParameterStore store = small_store(device);
  OptimizerConfig config;
  config.weight_decay = 0;
  Optimizer optimizer(config, store, device);
  for (float& gradient : store.gradients()) gradient = -300;
  optimizer.step(0.01, 1.0 / 7);
  for (float value : store.tensor(0).flat()) REQUIRE(value == Approx(1.01f));
}

TEST_CASE("the gradient norm is of the scaled gradient and shows what is not finite", "[optim]") {
  Device device;
  ParameterStore store = small_store(device);
  store.gradients()[0] = 3;
  store.gradients()[6] = 4;
  OptimizerConfig config;
  Optimizer optimizer(config, store, device);
  const auto communicator = make_self_communicator();
  const auto norm = [&] { return optimizer.gradient_norm(*communicator, 0.5); };
  REQUIRE(norm() == Approx(2.5));
  store.gradients()[7] = std::numeric_limits<float>::quiet_NaN();
  REQUIRE_FALSE(std::isfinite(norm()));
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
