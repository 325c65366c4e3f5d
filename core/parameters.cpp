#include "core/parameters.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "core/parallel.h"
#include "core/rng.h"

namespace itemloom {
namespace {

constexpr int64_t kFloatsPerLine = kAlignment / sizeof(float);

void fill_initial(Vector<float> values, const ParameterInfo& info, uint64_t seed) {
  if (info.initial.deviation == 0) {
    for (float& value : values) value = info.initial.mean;
    return;
  }
  const uint64_t key = mix64(seed ^ hash_name(info.name));
  for (int64_t index = 0; index < values.size(); index += 2) {
    const PhiloxBlock bits = philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                                    static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
    // (0, 1], so that the logarithm is finite.
    const double first = (bits[0] + 1.0) * 0x1p-32;
    const double radius = std::sqrt(-2 * std::log(first));
    const double angle = 2 * std::numbers::pi * (bits[1] * 0x1p-32);
    values[index] = static_cast<float>(info.initial.mean + info.initial.deviation * radius * std::cos(angle));
    if (index + 1 < values.size()) {
      values[index + 1] = static_cast<float>(info.initial.mean + info.initial.deviation * radius * std::sin(angle));
    }
  }
}

}  // namespace

int ParameterStore::add(const std::string& name, int64_t rows, int64_t columns, InitialValue initial) {
  CHECK(!values_, "parameter ", name, " comes after the store was allocated");
  CHECK(find(name) < 0, "parameter ", name, " is registered twice");
  const bool is_matrix = columns > 0;
  ParameterInfo info{.name = name,
                     .shape = is_matrix ? std::vector<int64_t>{rows, columns} : std::vector<int64_t>{rows},
                     .initial = initial,
                     .offset = size_,
                     .size = is_matrix ? rows * columns : rows,
                     .decays = is_matrix};
  size_ += block_count(info.size, kFloatsPerLine) * kFloatsPerLine;
  infos_.push_back(std::move(info));
  return static_cast<int>(infos_.size()) - 1;
}

void ParameterStore::allocate(Device& device, uint64_t seed) {
  const int64_t bytes = size_ * static_cast<int64_t>(sizeof(float));
  own_values_ = device.allocate(bytes);
  own_gradients_ = device.allocate(bytes);
  allocate(device, seed, own_values_.as<float>(size_), own_gradients_.as<float>(size_));
}

void ParameterStore::allocate(Device& device, uint64_t seed, Vector<float> values, Vector<float> gradients) {
  CHECK(values.size() == size_ && (!gradients || gradients.size() == size_), "the store has ", size_,
        " floats, its buffers ", values.size(), " and ", gradients.size());
  values_ = values;
  gradients_ = gradients;
  if (gradients_) {
    for (const ParameterInfo& info : infos_) {
      gradient_slots_.push_back(
          {.data = gradients_.data() + info.offset, .parameter = static_cast<int32_t>(gradient_slots_.size())});
    }
  }
  if (device.precision() == Precision::kBf16) {
    own_bf16_values_ = device.allocate(size_ * static_cast<int64_t>(sizeof(Bf16)));
    bf16_values_ = own_bf16_values_.as<Bf16>(size_);
  }
  if (device.kind() == DeviceKind::kPlanning) return;
  HostImage initial(device, values);
  for (const ParameterInfo& info : infos_) {
    fill_initial(initial.floats().slice(info.offset, info.size), info, seed);
  }
  initial.upload();
  if (!bf16_values_) return;
  std::vector<Bf16> rounded;
  rounded.reserve(static_cast<size_t>(size_));
  for (float value : initial.floats()) rounded.push_back(to_bf16(value));
  device.copy_from_host(rounded.data(), bf16_values_.data(), size_);
}

Tensor ParameterStore::tensor(int index) const {
  const ParameterInfo& info = infos_[static_cast<size_t>(index)];
  CHECK(values_, "parameter ", info.name, " is used before the store was allocated");
  float* value = values_.data() + info.offset;
  Gradient* gradient = gradients_ ? &gradient_slots_[static_cast<size_t>(index)] : nullptr;
  const Bf16* bf16_copy = bf16_values_ ? bf16_values_.data() + info.offset : nullptr;
  if (info.shape.size() == 1) return Tensor(value, info.shape[0], gradient, bf16_copy);
  return Tensor(value, info.shape[0], info.shape[1], gradient, bf16_copy);
}

int ParameterStore::find(std::string_view name) const {
  for (size_t index = 0; index < infos_.size(); ++index) {
    if (infos_[index].name == name) return static_cast<int>(index);
  }
  return -1;
}

int64_t ParameterStore::count() const {
  int64_t total = 0;
  for (const ParameterInfo& info : infos_) total += info.size;
  return total;
}

}  // namespace itemloom
