#include "optim/optimizer.h"

#include <algorithm>

#include "core/parallel.h"
#include "kernels/reduce.h"

namespace itemloom {
namespace {

std::vector<std::string> slot_names(const OptimizerConfig& config) {
  if (config.name == "adam" || config.name == "adamw") return {"first_moment", "second_moment"};
  CHECK(config.name == "sgd" || config.name == "rmsprop", "optimizer.name is '", config.name, "'");
  std::vector<std::string> names;
  if (config.name == "rmsprop") names.push_back("square");
  // Without momentum a velocity is what a step adds, and nothing of it is kept.
  if (config.momentum > 0) names.push_back("velocity");
  return names;
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
      slot_names_(slot_names(config)),
      in_slices_(true) {
  for (const FlatRange& range : owned_) owned_size_ += range.size();
  for (size_t slot = 0; slot < slot_names_.size(); ++slot) {
    slot_blocks_.push_back(device.allocate(owned_size_ * static_cast<int64_t>(sizeof(float))));
  }
  make_parts();
  decision_ = device.allocate(sizeof(StepDecision));
  square_sums_ = device.allocate(block_count(store.size(), kSumOfSquaresBlock) * static_cast<int64_t>(sizeof(double)));
}

// From the beginning of the range (kernels/optimizer_step.h).
std::vector<int64_t> Optimizer::decay_switches(FlatRange range) const {
  const std::vector<ParameterInfo>& infos = store_->infos();
  std::vector<int64_t> switches;
  bool decays = false;
  for (size_t index = 0; index < infos.size(); ++index) {
    // Padding belongs to the parameter before it: it is zero, has zero gradient, and stays zero.
    const int64_t end = index + 1 < infos.size() ? infos[index + 1].offset : store_->size();
    const FlatRange owned{std::max(infos[index].offset, range.begin), std::min(end, range.end)};
    if (owned.size() <= 0 || infos[index].decays == decays) continue;
    switches.push_back(owned.begin - range.begin);
    decays = !decays;
  }
  return switches;
}

void Optimizer::make_parts() {
  std::vector<int64_t> all;
  std::vector<size_t> ends;
  for (const FlatRange& range : owned_) {
    const std::vector<int64_t> switches = decay_switches(range);
    all.insert(all.end(), switches.begin(), switches.end());
    ends.push_back(all.size());
  }
  const auto count = static_cast<int64_t>(all.size());
  switches_ = device_->allocate(count * static_cast<int64_t>(sizeof(int64_t)));
  device_->copy_from_host(all.data(), switches_.as<int64_t>(count).data(), count);
  int64_t state_begin = 0, begin = 0;
  for (size_t index = 0; index < owned_.size(); ++index) {
    const auto end = static_cast<int64_t>(ends[index]);
    parts_.push_back({owned_[index], state_begin, switches_.as<const int64_t>(count).slice(begin, end - begin)});
    state_begin += owned_[index].size();
    begin = end;
  }
}

// None where there are fewer.
Vector<float> Optimizer::slot(size_t index, int64_t begin, int64_t size) const {
  if (index >= slot_blocks_.size()) return Vector<float>::none();
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

int64_t Optimizer::steps() const {
  int64_t steps = 0;
  device_->copy_to_host(&decision().data()->steps, &steps, 1);
  return steps;
}

void Optimizer::set_steps(int64_t steps) {
  device_->copy_from_host(&steps, &decision().data()->steps, 1);
}

void Optimizer::decide(Communicator& communicator, double mean, Vector<double> losses) {
  static_assert(kShareBlock % kSumOfSquaresBlock == 0, "an owned range is made of whole blocks of the sum");
  const int64_t all_blocks = block_count(store_->size(), kSumOfSquaresBlock);
  const Vector<double> sums = square_sums_.as<double>(all_blocks);
  // What the other ranks own comes from them.
  if (in_slices_) device_->zero(sums.data(), square_sums_.bytes());
  for (const FlatRange& range : owned_) {
    const int64_t blocks = block_count(range.size(), kSumOfSquaresBlock);
    run(*device_, SumOfSquares{.x = store_->gradients().slice(range.begin, range.size()),
                               .partials = sums.slice(range.begin / kSumOfSquaresBlock, blocks)});
  }
  if (in_slices_) gather_by_sum(*device_, communicator, sums);
  run(*device_, DecideStep{.losses = losses,
                           .square_sums = sums,
                           .mean = mean,
                           .clip_norm = config_.clip_norm,
                           .beta1 = config_.beta1,
                           .beta2 = config_.beta2,
                           .decision = decision()});
}

void Optimizer::step(Communicator& communicator, double learning_rate, double mean, Vector<double> losses) {
  decide(communicator, mean, losses);
  for (const Part& part : parts_) step_part(part, static_cast<float>(learning_rate));
}

void Optimizer::step_part(const Part& part, float learning_rate) {
  const auto& [range, state_begin, switches] = part;
  const float weight_decay = static_cast<float>(config_.weight_decay);
  const Vector<float> value = store_->values().slice(range.begin, range.size());
  const Vector<float> gradient = store_->gradients().slice(range.begin, range.size());
  if (config_.name == "sgd") {
    run(*device_, SgdStep{.value = value,
                          .gradient = gradient,
                          .velocity = slot(0, state_begin, range.size()),
                          .decision = decision(),
                          .learning_rate = learning_rate,
                          .momentum = static_cast<float>(config_.momentum),
                          .weight_decay = weight_decay,
                          .decay_switches = switches});
  } else if (config_.name == "rmsprop") {
    run(*device_, RmspropStep{.value = value,
                              .gradient = gradient,
                              .square = slot(0, state_begin, range.size()),
                              .velocity = slot(1, state_begin, range.size()),
                              .decision = decision(),
                              .learning_rate = learning_rate,
                              .decay = static_cast<float>(config_.decay),
                              .momentum = static_cast<float>(config_.momentum),
                              .epsilon = static_cast<float>(config_.epsilon),
                              .weight_decay = weight_decay,
                              .decay_switches = switches});
  } else {
    run(*device_, AdamStep{.value = value,
                           .gradient = gradient,
                           .first_moment = slot(0, state_begin, range.size()),
                           .second_moment = slot(1, state_begin, range.size()),
                           .decision = decision(),
                           .learning_rate = learning_rate,
                           .beta1 = static_cast<float>(config_.beta1),
                           .beta2 = static_cast<float>(config_.beta2),
                           .epsilon = static_cast<float>(config_.epsilon),
                           .weight_decay = weight_decay,
                           .decay_switches = switches,
                           .decoupled = config_.name == "adamw"});
  }
}

}  // namespace itemloom
