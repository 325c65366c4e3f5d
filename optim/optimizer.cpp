#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
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

Optimizer::Optimizer(const OptimizerConfig& config, const ParameterStore& store, Device& device)
    : Optimizer(config, store, device, {{0, store.size()}}) {
  in_slices_ = false;
}

Optimizer::Optimizer(const OptimizerConfig& config, const ParameterStore& store, Device& device,
                     std::vector<FlatRange> owned)
    : config_(config),
      store_(&store),
      device_(&device),
      owned_(std::move(owned)),
      slot_names_(slot_names(config.name)),
      in_slices_(true) {
  const std::vector<ParameterInfo>& infos = store.infos();
  for (size_t index = 0; index < infos.size(); ++index) {
    // Padding belongs to the parameter before it: it is zero, has zero gradient, and stays zero.
    const int64_t end = index + 1 < infos.size() ? infos[index + 1].offset : store.size();
    add_owned({infos[index].offset, end}, infos[index].decays);
  }
  for (const FlatRange& range : owned_) owned_size_ += range.size();
  for (size_t slot = 0; slot < slot_names_.size(); ++slot) {
    slot_blocks_.push_back(device.allocate(owned_size_ * static_cast<int64_t>(sizeof(float))));
  }
  square_sums_.resize(static_cast<size_t>(block_count(store.size(), kSumOfSquaresBlock)));
  device_square_sums_ = device.allocate(static_cast<int64_t>(square_sums_.size() * sizeof(double)));
}

// The part of a parameter that is owned.
void Optimizer::add_owned(FlatRange parameter, bool decays) {
  int64_t state_begin = 0;
  for (const FlatRange& range : owned_) {
    const int64_t begin = std::max(parameter.begin, range.begin), end = std::min(parameter.end, range.end);
    if (begin < end) {
      Range* last = ranges_.empty() ? nullptr : &ranges_.back();
      if (last && last->decays == decays && last->begin + last->size == begin && begin > range.begin) {
        last->size += end - begin;
      } else {
        ranges_.push_back({begin, end - begin, state_begin + begin - range.begin, decays});
      }
    }
    state_begin += range.size();
  }
}

Vector<float> Optimizer::slot(size_t index, int64_t begin, int64_t size) const {
  return slot_blocks_[index].as<float>(owned_size_).slice(begin, size);
}

std::vector<Optimizer::Slot> Optimizer::slots() const {
  std::vector<Slot> result;
  for (size_t index = 0; index < slot_names_.size(); ++index) {
    result.push_back({slot_names_[index], slot(index, 0, owned_size_)});
  }
  return result;
}

int64_t Optimizer::state_bytes() const {
  return static_cast<int64_t>(slot_blocks_.size() * sizeof(float)) * owned_size_;
}

double Optimizer::gradient_norm(Communicator& communicator, double gradient_scale) {
  static_assert(kShareBlock % kSumOfSquaresBlock == 0, "an owned range is made of whole blocks of the sum");
  // What is not owned stays zero, as it was made.
  const int64_t all_blocks = static_cast<int64_t>(square_sums_.size());
  const Vector<double> partials = device_square_sums_.as<double>(all_blocks);
  for (const FlatRange& range : owned_) {
    const int64_t blocks = block_count(range.size(), kSumOfSquaresBlock);
    run(*device_, SumOfSquares{.x = store_->gradients().slice(range.begin, range.size()),
                               .partials = partials.slice(range.begin / kSumOfSquaresBlock, blocks)});
  }
  device_->copy_to_host(partials.data(), square_sums_.data(), all_blocks);
  if (in_slices_) {
    communicator.all_reduce_sum(Vector<double>(square_sums_.data(), all_blocks));
  }
  double sum = 0;
  for (const double block : square_sums_) sum += block;
  return std::sqrt(sum) * gradient_scale;
}

void Optimizer::step(double learning_rate, double gradient_scale) {
  ++steps_;
  for (const Range& range : ranges_) {
    step_range(range, static_cast<float>(learning_rate), static_cast<float>(gradient_scale));
  }
}

void Optimizer::step_range(const Range& range, float learning_rate, float gradient_scale) {
  const float weight_decay = range.decays ? static_cast<float>(config_.weight_decay) : 0.0f;
  const Vector<float> value = store_->values().slice(range.begin, range.size);
  const Vector<float> gradient = store_->gradients().slice(range.begin, range.size);
  if (config_.name == "sgd") {
    run(*device_, SgdStep{.value = value,
                          .gradient = gradient,
                          .velocity = slot(0, range.state_begin, range.size),
                          .gradient_scale = gradient_scale,
                          .learning_rate = learning_rate,
                          .momentum = static_cast<float>(config_.momentum),
                          .weight_decay = weight_decay});
  } else if (config_.name == "rmsprop") {
    run(*device_, RmspropStep{.value = value,
                              .gradient = gradient,
                              .square = slot(0, range.state_begin, range.size),
                              .velocity = slot(1, range.state_begin, range.size),
                              .gradient_scale = gradient_scale,
                              .learning_rate = learning_rate,
                              .decay = static_cast<float>(config_.decay),
                              .momentum = static_cast<float>(config_.momentum),
                              .epsilon = static_cast<float>(config_.epsilon),
                              .weight_decay = weight_decay});
  } else {
    const double steps = static_cast<double>(steps_);
    run(*device_, AdamStep{.value = value,
                           .gradient = gradient,
                           .first_moment = slot(0, range.state_begin, range.size),
                           .second_moment = slot(1, range.state_begin, range.size),
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

}  // namespace itemloom
