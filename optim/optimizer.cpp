#include "optim/optimizer.h"

#include <cmath>

#include "kernels/optimizer_step.h"
#include "kernels/reduce.h"

namespace itemloom {
namespace {

std::vector<std::string> slot_names(const std::string& optimizer) {
  if (optimizer == "adam" || optimizer == "adamw") return {"first_moment", "second_moment"};
  if (optimizer == "sgd") return {"velocity"};
  CHECK(optimizer == "rmsprop", "optimizer.name is '", optimizer, "'");
  return {"square", "velocity"};
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, const ParameterStore& store)
    : config_(config), store_(&store), slot_names_(slot_names(config.name)) {
  const int64_t total = store.values().size();
  for (size_t index = 0; index < store.infos().size(); ++index) {
    const ParameterInfo& info = store.infos()[index];
    // Padding belongs to the parameter before it: it is zero, has zero gradient, and stays zero.
    const int64_t end = index + 1 < store.infos().size() ? store.infos()[index + 1].offset : total;
    if (!ranges_.empty() && ranges_.back().decays == info.decays) {
      ranges_.back().size = end - ranges_.back().begin;
    } else {
      ranges_.push_back({info.offset, end - info.offset, info.decays});
    }
  }
  for (size_t slot = 0; slot < slot_names_.size(); ++slot) {
    slot_blocks_.emplace_back(total * static_cast<int64_t>(sizeof(float)));
  }
}

Vector<float> Optimizer::slot(size_t index, int64_t begin, int64_t size) const {
  return Vector<float>(reinterpret_cast<float*>(slot_blocks_[index].data()) + begin, size);
}

std::vector<Optimizer::Slot> Optimizer::slots() const {
  std::vector<Slot> result;
  for (size_t index = 0; index < slot_names_.size(); ++index) {
    result.push_back({slot_names_[index], slot(index, 0, store_->values().size())});
  }
  return result;
}

void Optimizer::step(Device& device, double learning_rate, double gradient_scale) {
  ++steps_;
  for (const Range& range : ranges_) {
    step_range(device, range.begin, range.size, static_cast<float>(learning_rate), static_cast<float>(gradient_scale),
               range.decays ? static_cast<float>(config_.weight_decay) : 0.0f);
  }
}

void Optimizer::step_range(Device& device, int64_t begin, int64_t size, float learning_rate, float gradient_scale,
                           float weight_decay) {
  const Vector<float> value = store_->values().slice(begin, size);
  const Vector<float> gradient = store_->gradients().slice(begin, size);
  if (config_.name == "sgd") {
    run(device, SgdStep{.value = value,
                        .gradient = gradient,
                        .velocity = slot(0, begin, size),
                        .gradient_scale = gradient_scale,
                        .learning_rate = learning_rate,
                        .momentum = static_cast<float>(config_.momentum),
                        .weight_decay = weight_decay});
  } else if (config_.name == "rmsprop") {
    run(device, RmspropStep{.value = value,
                            .gradient = gradient,
                            .square = slot(0, begin, size),
                            .velocity = slot(1, begin, size),
                            .gradient_scale = gradient_scale,
                            .learning_rate = learning_rate,
                            .decay = static_cast<float>(config_.decay),
                            .momentum = static_cast<float>(config_.momentum),
                            .epsilon = static_cast<float>(config_.epsilon),
                            .weight_decay = weight_decay});
  } else {
    const double steps = static_cast<double>(steps_);
    run(device, AdamStep{.value = value,
                         .gradient = gradient,
                         .first_moment = slot(0, begin, size),
                         .second_moment = slot(1, begin, size),
                         .gradient_scale = gradient_scale,
                         .learning_rate = learning_rate,
                         .beta1 = static_cast<float>(config_.beta1),
                         .beta2 = static_cast<float>(config_.beta2),
                         .epsilon = static_cast<float>(config_.epsilon),
                         .weight_decay = weight_decay,
                         .decoupled = config_.name == "adamw",
                         .bias_correction1 = static_cast<float>(1 - std::pow(config_.beta1, steps)),
                         .bias_correction2 = static_cast<float>(1 - std::pow(config_.beta2, steps))});
  }
}

double gradient_norm(Device& device, Vector<const float> gradients, double gradient_scale) {
  double sum = 0;
  run(device, SumOfSquares{.x = gradients, .result = Vector<double>(&sum, 1)});
  return std::sqrt(sum) * gradient_scale;
}

}  // namespace itemloom
