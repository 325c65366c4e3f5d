// How parameters are updated.
#pragma once

#include "core/config.h"

namespace itemloom {

// The factor on the learning rate at a step.
struct ScheduleConfig {
  std::string name = "constant";
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;
  double final_share = 0.0;

  template <class Visitor>
  void describe(Visitor& visit) {
    const bool decays = name != "constant";
    const std::string when = "optimizer.schedule.name is linear or cosine";
    visit.field("name", name,
                {.help = "The learning rate after warm-up: constant, or falling by a line or half a cosine.",
                 .choices = {"constant", "linear", "cosine"}});
    visit.field("warmup_steps", warmup_steps,
                {.help = "Steps over which the learning rate rises from zero by a line.", .minimum = 0});
    visit.field("total_steps", total_steps,
                {.help = "The step at which it has fallen to its end, counted with warm-up; 0: the last step of "
                         "training.epochs.",
                 .minimum = 0,
                 .active = decays,
                 .active_when = when});
    visit.field("final_share", final_share,
                {.help = "Share of optimizer.learning_rate that is left at the end.",
                 .minimum = 0.0,
                 .maximum = 1.0,
                 .active = decays,
                 .active_when = when});
  }
};

struct OptimizerConfig {
  std::string name = "adamw";
  double learning_rate = 1e-3;
  double weight_decay = 0.01;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double momentum = 0.0;
  double decay = 0.99;
  double clip_norm = 5.0;
  bool sharded = false;
  ScheduleConfig schedule;

  template <class Visitor>
  void describe(Visitor& visit) {
    const bool adam = name == "adam" || name == "adamw", sgd = name == "sgd", rmsprop = name == "rmsprop";
    const std::string when_adam = "optimizer.name is adam or adamw";
    visit.field("name", name, {.help = "The rule of a step.", .choices = {"adam", "adamw", "sgd", "rmsprop"}});
    visit.field("learning_rate", learning_rate, {.help = "Size of a step.", .above = 0.0});
    visit.field("weight_decay", weight_decay,
                {.help = "Pull of weights to zero, but not of norms and biases: decoupled in adamw, else added to the "
                         "gradient.",
                 .minimum = 0.0});
    visit.field("beta1", beta1,
                {.help = "What the first moment keeps in a step.",
                 .minimum = 0.0,
                 .below = 1.0,
                 .active = adam,
                 .active_when = when_adam});
    visit.field("beta2", beta2,
                {.help = "What the second moment keeps in a step.",
                 .minimum = 0.0,
                 .below = 1.0,
                 .active = adam,
                 .active_when = when_adam});
    visit.field("epsilon", epsilon,
                {.help = "Added to the root of the second moment.",
                 .above = 0.0,
                 .active = adam || rmsprop,
                 .active_when = "optimizer.name is adam, adamw or rmsprop"});
    visit.field("momentum", momentum,
                {.help = "What the velocity keeps in a step.",
                 .minimum = 0.0,
                 .below = 1.0,
                 .active = sgd || rmsprop,
                 .active_when = "optimizer.name is sgd or rmsprop"});
    visit.field("decay", decay,
                {.help = "What the mean of squared gradients keeps in a step.",
                 .minimum = 0.0,
                 .below = 1.0,
                 .active = rmsprop,
                 .active_when = "optimizer.name is rmsprop"});
    visit.field("clip_norm", clip_norm,
                {.help = "A gradient whose norm over all parameters is greater is scaled down to it; 0: never.",
                 .minimum = 0.0});
    visit.field("sharded", sharded,
                {.help = "Each rank keeps the optimizer's state of a share of the parameters and updates that share "
                         "(ZeRO stage 1): the same results with less memory a rank."});
    visit.group("schedule", schedule, {.help = "The learning rate over time."});
  }
};

}  // namespace itemloom
