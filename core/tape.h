// The linear tape: differentiable ops record closures in the order of execution, backward() walks them in reverse. No
// graph, no sort, no shared ownership: everything lives in the step's arena and dies with the step.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <tuple>
#include <type_traits>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace itemloom {

enum class Mode {
  kTraining,   // records, and dropout is active
  kInference,  // records nothing, dropout is the identity
};

class Tape {
 public:
  // `seed` and `step` name the dropout masks (core/rng.h).
  Tape(Device& device, Arena& arena, Mode mode, uint64_t seed = 0, uint32_t step = 0)
      : device_(device), arena_(arena), mode_(mode), seed_(seed), step_(step), number_(next_number()) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Device& device() { return device_; }
  bool training() const { return mode_ == Mode::kTraining; }

  // What activations and their gradients are stored as.
  NumberType activation_type() const {
    return device_.precision() == Precision::kBf16 ? NumberType::kBf16 : NumberType::kFloat;
  }
  // Whether matrix products over floats are to round their factors.
  bool uses_tf32() const { return device_.precision() == Precision::kTf32; }

  // A new activation, contents undefined; differentiable when the tape records.
  Tensor matrix(int64_t rows, int64_t columns);

  // Memory that lives as long as the step, contents undefined.
  template <class T>
  Vector<T> keep(int64_t count) {
    return Vector<T>(arena_.take<T>(count), count);
  }

  // Values of the host where the device's kernels can read them, for as long as the step; on the CPU the same memory.
  template <class T>
  Vector<const T> on_device(const std::vector<T>& host) {
    const int64_t count = static_cast<int64_t>(host.size());
    if (device_.kind() == DeviceKind::kCpu) return Vector<const T>(host.data(), count);
    const Vector<T> copy = keep<T>(count);
    device_.copy_from_host(host.data(), copy.data(), count);
    return copy;
  }

  // The same of several, as one copy.
  template <class... T>
  std::tuple<Vector<const T>...> all_on_device(const std::vector<T>&... host) {
    if (device_.kind() == DeviceKind::kCpu) return {on_device(host)...};
    const cuda_backend::HostPiece pieces[] = {{host.data(), static_cast<int64_t>(host.size() * sizeof(T))}...};
    int64_t bytes = 0;
    for (const auto& piece : pieces) bytes += round_up(piece.bytes, kAlignment);
    std::byte* place = arena_.take<std::byte>(bytes);
    device_.gather_from_host(pieces, place);
    const auto next = [&place]<class Each>(const std::vector<Each>& each) {
      const Vector<const Each> copy(reinterpret_cast<const Each*>(place), static_cast<int64_t>(each.size()));
      place += round_up(static_cast<int64_t>(each.size() * sizeof(Each)), kAlignment);
      return copy;
    };
    return std::tuple<Vector<const T>...>{next(host)...};
  }

  // Dropout masks are to be those of the step that stands in this memory of the device when they are drawn.
  void take_step_from(const uint32_t* step) { step_at_ = step; }

  // Names for `count` dropout masks (one a head for attention), in forward order.
  DropoutKey next_dropout(uint32_t count = 1) {
    const DropoutKey key{seed_, step_, stream_, step_at_};
    stream_ += count;
    return key;
  }

  // Records how to undo the op that made `outputs` (one or two) of `inputs`. The closure gets this tape; it holds views
  // and numbers only.
  template <class Backward>
  void record(std::initializer_list<Tensor> outputs, std::initializer_list<Tensor> inputs, Backward backward) {
    static_assert(std::is_trivially_destructible_v<Backward>, "a closure on the tape owns nothing");
    if (!training()) return;
    void* closure = arena_.take_host<std::byte>(sizeof(Backward));
    new (closure) Backward(backward);
    push(outputs, inputs, closure, [](void* object, Tape& tape) { (*static_cast<Backward*>(object))(tape); });
  }
  // For a loss op, which puts its inputs' gradients in place when it runs and has nothing to undo.
  void record_loss(std::initializer_list<Tensor> inputs) {
    if (training()) note_first_uses(inputs, loss_first_uses_);
  }

  // The gradient of a differentiable tensor, zero when nothing has added to it yet.
  template <class T = float>
  Matrix<T> gradient_matrix(const Tensor& tensor) {
    return Matrix<T>(gradient_data<T>(tensor), tensor.rows(), tensor.columns());
  }
  template <class T = float>
  Vector<T> gradient_vector(const Tensor& tensor) {
    return Vector<T>(gradient_data<T>(tensor), tensor.size());
  }
  // none() when nothing has added to it.
  template <class T = float>
  Matrix<T> gradient_matrix_if_any(const Tensor& tensor) {
    return tensor.gradient()->data ? gradient_matrix<T>(tensor) : Matrix<T>::none();
  }

  // Walks the entries in reverse. The root of the tape is a loss op, which has put its inputs' gradients in place when
  // it ran. An op none of whose outputs anybody differentiated is skipped. May run once.
  // `on_parameter_ready` gets the index of each parameter that was used, once nothing will be added to its gradient
  // any more: when the op that used it first has been undone.
  void backward(FunctionRef<void(int parameter)> on_parameter_ready);
  void backward() {
    backward([](int) {});
  }

 private:
  struct FirstUse {
    int32_t parameter;
    FirstUse* next;
  };
  struct Output {
    Gradient* gradient = nullptr;
    int64_t bytes = 0;
  };
  using Undo = void (*)(void* closure, Tape&);
  struct Entry {
    void* closure;
    Undo undo;
    std::array<Output, 2> outputs;
    FirstUse* first_uses;  // parameters that no entry before this one uses
    Entry* previous;
  };
  // Gradient memory that its tensor no longer needs.
  struct FreePiece {
    void* data;
    int64_t bytes;
    FreePiece* next;
  };

  void push(std::initializer_list<Tensor> outputs, std::initializer_list<Tensor> inputs, void* closure, Undo undo);
  void note_first_uses(std::initializer_list<Tensor> inputs, FirstUse*& list);
  static uint64_t next_number();
  void* gradient_data(const Tensor& tensor);
  template <class T>
  T* gradient_data(const Tensor& tensor) {
    tensor.check_type<T>();
    return static_cast<T*>(gradient_data(tensor));
  }
  void release(const Output& output);

  Device& device_;
  Arena& arena_;
  Mode mode_;
  uint64_t seed_;
  uint32_t step_;
  const uint32_t* step_at_ = nullptr;
  const uint64_t number_;  // tells this tape from all others
  uint32_t stream_ = 0;
  Entry* last_ = nullptr;
  FirstUse* loss_first_uses_ = nullptr;
  FreePiece* free_ = nullptr;
};

}  // namespace itemloom
