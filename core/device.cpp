#include "core/device.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/check.h"
#include "core/parallel.h"

namespace itemloom {
namespace {

// hwy::SupportedTargets() points the dispatch at everything the processor has, even what was disabled: point it back.
int64_t supported_targets() {
  const int64_t targets = hwy::SupportedTargets();
  hwy::GetChosenTarget().Update(targets);
  return targets;
}

// Zeroed by the pool: most of what a step zeroes was written a moment ago and is still in a cache.
constexpr int64_t kZeroBlock = int64_t{64} << 10;

void zero_host(void* data, int64_t bytes) {
  std::byte* begin = static_cast<std::byte*>(data);
  parallel_for(block_count(bytes, kZeroBlock), [=](int64_t block) {
    const int64_t offset = block * kZeroBlock;
    std::memset(begin + offset, 0, static_cast<size_t>(std::min(kZeroBlock, bytes - offset)));
  });
}

}  // namespace

DeviceBlock::DeviceBlock(DeviceKind kind, int64_t bytes) : bytes_(bytes) {
  if (kind == DeviceKind::kPlanning) {
    planned_ = reinterpret_cast<std::byte*>(kAlignment);
  } else if (kind == DeviceKind::kCpu) {
    host_ = HostBlock(bytes);
  } else {
    cuda_.reset(cuda_backend::allocate(bytes));
  }
}

PinnedBlock::PinnedBlock(DeviceKind kind, int64_t bytes) {
  if (kind == DeviceKind::kCpu) {
    host_ = HostBlock(bytes);
  } else {
    cuda_.reset(cuda_backend::allocate_pinned(bytes));
  }
}

Device::Device(DeviceKind kind, int ordinal, Precision precision) : kind_(kind), precision_(precision) {
  CHECK(kind != DeviceKind::kCpu || precision == Precision::kFp32, "the CPU computes in fp32 only");
  if (kind == DeviceKind::kCuda) cuda_.reset(cuda_backend::make_context(ordinal));
}

void Device::reserve_scratch(int64_t bytes) {
  if (cuda_) {
    cuda_backend::reserve_scratch(*cuda_, bytes);
  } else {
    scratch_.reserve(bytes);
  }
}

int64_t Device::scratch_size() const {
  if (kind_ == DeviceKind::kPlanning) return planned_scratch_;
  return cuda_ ? cuda_backend::scratch_size(*cuda_) : scratch_.bytes();
}

void Device::copy(const void* from, void* to, int64_t bytes, cuda_backend::Direction direction) {
  if (bytes == 0 || kind_ == DeviceKind::kPlanning) return;
  if (cuda_) {
    cuda_backend::copy(*cuda_, from, to, bytes, direction);
  } else {
    std::memmove(to, from, static_cast<size_t>(bytes));
  }
}

void Device::gather_from_host(std::span<const cuda_backend::HostPiece> pieces, std::byte* device) {
  if (kind_ == DeviceKind::kPlanning) return;
  if (cuda_) return cuda_backend::gather_from_host(*cuda_, pieces, device);
  for (const auto& piece : pieces) {
    copy(piece.data, device, piece.bytes, cuda_backend::Direction::kFromHost);
    device += round_up(piece.bytes, kAlignment);
  }
}

void Device::zero(void* data, int64_t bytes) {
  if (bytes == 0 || kind_ == DeviceKind::kPlanning) return;
  if (cuda_) {
    cuda_backend::zero(*cuda_, data, bytes);
  } else {
    zero_host(data, bytes);
  }
}

void Device::synchronize() {
  if (cuda_) cuda_backend::synchronize(*cuda_);
}

DeviceMark::DeviceMark(Device& device) : device_(&device) {
  if (device.cuda()) event_.reset(cuda_backend::make_event());
}

void DeviceMark::set() {
  if (event_) {
    cuda_backend::set_event(*device_->cuda(), event_.get());
  } else {
    time_ = std::chrono::steady_clock::now();
  }
}

void DeviceMark::wait() const {
  if (event_) cuda_backend::wait_for_event(*device_->cuda(), event_.get());
}

double DeviceMark::seconds_since(const DeviceMark& earlier) const {
  if (event_) return cuda_backend::seconds_between(earlier.event_.get(), event_.get());
  return std::chrono::duration<double>(time_ - earlier.time_).count();
}

HostImage::HostImage(Device& device, Vector<float> floats) : device_(device), floats_(floats), image_(floats) {
  if (device.kind() == DeviceKind::kCpu) return;
  memory_ = HostBlock(floats.size() * static_cast<int64_t>(sizeof(float)));
  image_ = Vector<float>(reinterpret_cast<float*>(memory_.data()), floats.size());
}

void HostImage::upload() {
  if (image_.data() != floats_.data()) device_.copy_from_host(image_.data(), floats_.data(), floats_.size());
}

HostCopy::HostCopy(Device& device, Vector<const float> floats) : floats_(floats) {
  if (device.kind() == DeviceKind::kCpu || !floats) return;
  memory_ = HostBlock(floats.size() * static_cast<int64_t>(sizeof(float)));
  float* copy = reinterpret_cast<float*>(memory_.data());
  device.copy_to_host(floats.data(), copy, floats.size());
  floats_ = Vector<const float>(copy, floats.size());
}

void select_cpu_kernels() {
  CHECK(supported_targets() & HWY_AVX2,
        "this processor has no AVX2 and FMA; itemloom needs an x86-64 processor of 2013 or later");
  const char* forced = std::getenv("ITEMLOOM_CPU");
  if (!forced || !*forced) return;
  const std::string name = forced;
  CHECK(name == "avx2" || name == "avx512", "ITEMLOOM_CPU is '", name, "'; it can be avx2 or avx512");
  if (name == "avx512") {
    CHECK(supported_targets() & HWY_AVX3, "ITEMLOOM_CPU asks for avx512, which this processor does not have");
  } else {
    hwy::DisableTargets(HWY_AVX3);
  }
}

std::string cpu_kernels() {
  return supported_targets() & HWY_AVX3 ? "avx512" : "avx2";
}

}  // namespace itemloom
