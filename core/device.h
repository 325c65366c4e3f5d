// Where kernels run. A kernel is an argument struct plus one launch() overload per backend; call sites say
// run(device, LayerNormForward{...}) and never name a backend.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/check.h"
#include "core/cuda/backend.h"
#include "core/memory.h"
#include "core/view.h"

namespace itemloom {

enum class DeviceKind {
  kCpu,
  kCuda,
  kPlanning,  // no device: kernels and copies do nothing, and memory is counted but not there
};

// What layers compute with. Sums, parameters, their gradients and the optimizer are fp32 in any case.
enum class Precision {
  kFp32,
  kTf32,  // a GPU's: matrix products round their factors to TF32 (10 bits of fraction)
  kBf16,  // a GPU's: activations and their gradients are stored as bf16, matrix products have bf16 factors
};

// What a CPU kernel gets beside its arguments: working memory for the length of one launch.
struct CpuStream {
  Scratch* scratch;
};

// What a CUDA kernel gets beside its arguments: the stream it is put on, libraries and working memory. Every build
// declares launch() for it; a build without CUDA neither defines nor calls it.
struct CudaStream {
  CudaContext* context;
};

// Zeroed memory of a device, released at the end of its life: host memory of the CPU, global memory of a GPU, which
// host code must not touch, addresses of nothing where memory is only planned. Throws Error naming the size when there
// is no more.
class DeviceBlock {
 public:
  DeviceBlock() = default;
  DeviceBlock(DeviceKind kind, int64_t bytes);

  std::byte* data() const { return cuda_ ? cuda_.get() : planned_ ? planned_ : host_.data(); }
  template <class T>
  Vector<T> as(int64_t count) const {
    return Vector<T>(reinterpret_cast<T*>(data()), count);
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct FreeCuda {
    void operator()(std::byte* data) const { cuda_backend::free(data); }
  };
  HostBlock host_;
  std::unique_ptr<std::byte, FreeCuda> cuda_;
  std::byte* planned_ = nullptr;
  int64_t bytes_ = 0;
};

// Host memory to and from which copies need not wait for the device: page-locked for a GPU, plain memory for the CPU.
// Zeroed at first. It is given back when the device has done what it was told.
class PinnedBlock {
 public:
  PinnedBlock(DeviceKind kind, int64_t bytes);

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(cuda_ ? cuda_.get() : host_.data());
  }

 private:
  struct FreePinned {
    void operator()(std::byte* data) const { cuda_backend::free_pinned(data); }
  };
  HostBlock host_;
  std::unique_ptr<std::byte, FreePinned> cuda_;
};

// The device a run works on. One object a process (or, in tests, a thread that acts as a rank).
//
// A GPU works through its stream in order and behind the host's back. Copies here are in that order. Only those to the
// host wait, so that what they write is there when they return.
class Device {
 public:
  // Throws Error with one clear line when the build, the driver or the machine has no such device, or the device no
  // such precision. `ordinal` counts GPUs from 0.
  explicit Device(DeviceKind kind = DeviceKind::kCpu, int ordinal = 0, Precision precision = Precision::kFp32);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  // One that computes nothing and counts what a device of this kind would need.
  static Device planning(DeviceKind kind, Precision precision) {
    return Device(DeviceKind::kPlanning, kind, precision);
  }

  DeviceKind kind() const { return kind_; }
  Precision precision() const { return precision_; }
  CpuStream cpu_stream() { return CpuStream{&scratch_}; }
  CudaStream cuda_stream() { return CudaStream{cuda_.get()}; }
  CudaContext* cuda() { return cuda_.get(); }

  DeviceBlock allocate(int64_t bytes) { return DeviceBlock(kind_, bytes); }

  // Takes the working memory of kernels before the first of them, so that no launch waits for more of it; what there
  // is, or on a planning device the most that a kernel was to be run with.
  void reserve_scratch(int64_t bytes);
  int64_t scratch_size() const;
  // On a planning device: notes what a kernel would need (kernels/scratch.h).
  template <class Arguments>
  void plan(const Arguments& arguments);

  // Between memory of the host and memory of this device, which on the CPU are one.
  template <class T>
  void copy_from_host(const T* host, T* device, int64_t count) {
    copy(host, device, count * static_cast<int64_t>(sizeof(T)), cuda_backend::Direction::kFromHost);
  }
  // Several pieces at once, each to the next multiple of kAlignment.
  void gather_from_host(std::span<const cuda_backend::HostPiece> pieces, std::byte* device);
  template <class T>
  void copy_to_host(const T* device, T* host, int64_t count) {
    copy(device, host, count * static_cast<int64_t>(sizeof(T)), cuda_backend::Direction::kToHost);
  }
  // To memory of a PinnedBlock; does not wait: it is there when a DeviceMark that was set behind it is reached.
  template <class T>
  void copy_to_pinned(const T* device, T* pinned, int64_t count) {
    copy(device, pinned, count * static_cast<int64_t>(sizeof(T)), cuda_backend::Direction::kToPinned);
  }
  // Within this device's memory.
  template <class T>
  void copy_within(const T* from, T* to, int64_t count) {
    copy(from, to, count * static_cast<int64_t>(sizeof(T)), cuda_backend::Direction::kWithin);
  }
  void zero(void* data, int64_t bytes);

  // Waits until the device has done what it was told; throws Error when something went wrong there.
  void synchronize();

 private:
  Device(DeviceKind kind, DeviceKind planned, Precision precision)
      : kind_(kind), planned_(planned), precision_(precision) {}
  void copy(const void* from, void* to, int64_t bytes, cuda_backend::Direction direction);

  struct DeleteCuda {
    void operator()(CudaContext* context) const { cuda_backend::delete_context(context); }
  };
  DeviceKind kind_;
  DeviceKind planned_ = DeviceKind::kPlanning;  // for which kind it plans
  Precision precision_;
  Scratch scratch_;
  int64_t planned_scratch_ = 0;
  std::unique_ptr<CudaContext, DeleteCuda> cuda_;
};

// A place in what a device has been told to do.
class DeviceMark {
 public:
  explicit DeviceMark(Device& device);

  // Behind all that the device has been told until now.
  void set();
  // Returns when the device has come there. Throws Error when something went wrong on it. What goes wrong between it
  // and those of other ranks is noticed elsewhere (ExchangeBuffer::check_health).
  void wait() const;
  // From an earlier mark to this one, both of which the device has come to.
  double seconds_since(const DeviceMark& earlier) const;

 private:
  struct DeleteEvent {
    void operator()(CUevent_st* event) const { cuda_backend::delete_event(event); }
  };
  Device* device_;
  std::unique_ptr<CUevent_st, DeleteEvent> event_;  // on a GPU
  std::chrono::steady_clock::time_point time_;      // on the CPU, which is there when it is told
};

// Host memory that stands for a device's while numbers are read or handed around: on the CPU it is that memory itself.
class HostImage {
 public:
  // Of floats of the device; contents undefined where it is memory of its own.
  HostImage(Device& device, Vector<float> floats);

  Vector<float> floats() const { return image_; }
  // Brings the image to the device.
  void upload();

 private:
  Device& device_;
  Vector<float> floats_, image_;
  HostBlock memory_;
};

// Floats of a device where the host can read them: on the CPU they are that memory itself.
class HostCopy {
 public:
  HostCopy(Device& device, Vector<const float> floats);

  Vector<const float> floats() const { return floats_; }

 private:
  HostBlock memory_;
  Vector<const float> floats_;
};

// bf16 is a GPU's alone: those kernels have no launch() for the CPU.
template <class Arguments>
concept RunsOnCpu = requires(CpuStream stream, const Arguments& arguments) {
  launch(stream, arguments);
};

template <class Arguments>
void Device::plan(const Arguments& arguments) {
  if (planned_ == DeviceKind::kCuda) {
    if constexpr (requires { scratch_bytes(CudaStream(), arguments); }) {
      planned_scratch_ = std::max(planned_scratch_, scratch_bytes(CudaStream(), arguments));
    }
  } else if constexpr (requires { scratch_bytes(CpuStream(), arguments); }) {
    planned_scratch_ = std::max(planned_scratch_, scratch_bytes(CpuStream(), arguments));
  }
}

// The one dispatch from a device to a backend's launch().
template <class Arguments>
void run(Device& device, const Arguments& arguments) {
  if (device.kind() == DeviceKind::kPlanning) return device.plan(arguments);
#ifdef ITEMLOOM_CUDA
  if (device.kind() == DeviceKind::kCuda) return launch(device.cuda_stream(), arguments);
#endif
  if constexpr (RunsOnCpu<Arguments>) {
    launch(device.cpu_stream(), arguments);
  } else {
    throw Error("bf16 kernels run on a GPU, not on the CPU");
  }
}

// Checks that this processor can run the kernels (AVX2 and FMA at least) and applies ITEMLOOM_CPU, which may force the
// lower path (ITEMLOOM_CPU=avx2). Throws Error with one clear line otherwise. Call once, before any kernel.
void select_cpu_kernels();

// The instruction set in use: "avx2" or "avx512".
std::string cpu_kernels();

}  // namespace itemloom
