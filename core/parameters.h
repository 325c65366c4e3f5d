// Parameters in two flat buffers, one for values and one for gradients. Layers see named tensors; the optimizer, the
// clipping and the checkpoints see ranges. The layout is the order of registration, each parameter starting on a cache
// line, so it is a pure function of the config.
//
// On a device that computes in bf16 there is a third one with the same layout, a copy of the values for matrix
// products. Whoever changes values rounds them into it again.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"
#include "core/view.h"

namespace itemloom {

// How a parameter starts: `mean` plus `deviation` times a standard normal number (Box-Muller on Philox keyed by the
// seed and the parameter's name, so adding a parameter changes no other).
struct InitialValue {
  float mean = 0;
  float deviation = 0;
};

struct ParameterInfo {
  std::string name;  // a path, and the checkpoint's key: encoder.0.attention.qkv.weight
  std::vector<int64_t> shape;
  InitialValue initial;
  int64_t offset;  // into the flat buffers, in floats
  int64_t size;
  bool decays;  // weight decay applies: matrices yes; biases, norm gains and other vectors no
};

class ParameterStore {
 public:
  // Registers a vector (columns 0) or a matrix. Throws Error when the name is taken or allocate() has been called.
  int add(const std::string& name, int64_t rows, int64_t columns, InitialValue initial);

  // Floats of a flat buffer, padding counted.
  int64_t size() const { return size_; }
  // Takes the buffers of the device and fills in initial values.
  void allocate(Device& device, uint64_t seed);
  // With buffers of size() zeros that outlive the store, where other ranks see them for one. Without gradients, none(),
  // nothing can be differentiated.
  void allocate(Device& device, uint64_t seed, Vector<float> values, Vector<float> gradients);

  Tensor tensor(int index) const;
  // The index of a name, or -1.
  int find(std::string_view name) const;
  const std::vector<ParameterInfo>& infos() const { return infos_; }

  Vector<float> values() const { return values_; }
  Vector<float> gradients() const { return gradients_; }
  // none() unless the device computes in bf16.
  Vector<Bf16> bf16_values() const { return bf16_values_; }
  // Number of trainable numbers, padding not counted.
  int64_t count() const;

 private:
  std::vector<ParameterInfo> infos_;
  mutable std::deque<Gradient> gradient_slots_;
  int64_t size_ = 0;
  DeviceBlock own_values_, own_gradients_, own_bf16_values_;
  Vector<float> values_ = Vector<float>::none(), gradients_ = Vector<float>::none();
  Vector<Bf16> bf16_values_ = Vector<Bf16>::none();
};

// A parameter as a layer holds it: usable once the store has been allocated.
class Parameter {
 public:
  Parameter(ParameterStore& store, int index) : store_(&store), index_(index) {}
  Tensor tensor() const { return store_->tensor(index_); }
  operator Tensor() const { return tensor(); }

 private:
  ParameterStore* store_;
  int index_;
};

// A place in the tree of names.
class Scope {
 public:
  explicit Scope(ParameterStore& store) : store_(&store) {}
  Scope operator/(std::string_view name) const {
    Scope child(*store_);
    child.prefix_ = prefix_ + std::string(name) + ".";
    return child;
  }
  Parameter matrix(const std::string& name, int64_t rows, int64_t columns, InitialValue initial) const {
    return Parameter(*store_, store_->add(prefix_ + name, rows, columns, initial));
  }
  Parameter vector(const std::string& name, int64_t size, InitialValue initial) const {
    return Parameter(*store_, store_->add(prefix_ + name, size, 0, initial));
  }

 private:
  ParameterStore* store_;
  std::string prefix_;
};

}  // namespace itemloom
