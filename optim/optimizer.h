// Optimizers over the flat parameter buffers: Adam, AdamW, SGD with momentum and RMSprop (kernels/optimizer_step.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "core/device.h"
#include "core/memory.h"
#include "core/parameters.h"
#include "kernels/optimizer_step.h"
#include "optim/config.h"

namespace itemloom {

// With its state in slices (ZeRO stage 1, Rajbhandari et al. 2020, section 5.1) each rank keeps the state of the ranges
// it owns and updates the parameters there; who owns them brings the new values to the other ranks.
class Optimizer {
 public:
  // State for all parameters, zero.
  Optimizer(const OptimizerConfig& config, const ParameterStore& store, Device& device);
  // State for `owned` ranges of the flat buffers alone: ascending, each beginning at a multiple of kShareBlock.
  // It is one of several slices, even where the ranges are all there are.
  Optimizer(const OptimizerConfig& config, const ParameterStore& store, Device& device, std::vector<FlatRange> owned);

  // The number of steps taken, which Adam's bias correction counts; set on resume. The device keeps it and is waited
  // for.
  int64_t steps() const;
  void set_steps(int64_t steps);

  // One step of the owned ranges with gradients scaled by `mean` (1 / masked rows) and clipped, and zero gradients
  // there afterwards. The step is skipped when the sum of `losses`, in the memory of the device and used up, or a
  // gradient of any rank is not finite. Weight decay skips vectors (biases and norm gains). The gradients' squares are
  // summed in fixed blocks in a fixed order, so that the slices do not change a bit. A collective where the ranges are
  // slices. Does not wait for the device, where it was decided what the step does (kernels/optimizer_step.h).
  void step(Communicator& communicator, double learning_rate, double mean, Vector<double> losses);
  // In the memory of the device, of the last step.
  Vector<StepDecision> decision() const { return decision_.as<StepDecision>(1); }

  // A state buffer of the owned ranges, one after the other: "first_moment", "second_moment", "square", or "velocity",
  // which is kept where there is momentum.
  struct Slot {
    std::string name;
    Vector<float> values;
  };
  std::vector<Slot> slots() const;
  const std::vector<FlatRange>& owned() const { return owned_; }
  int64_t state_bytes() const;

 private:
  // What one launch steps.
  struct Part {
    FlatRange range;      // of the flat buffers
    int64_t state_begin;  // in the state buffers
    Vector<const int64_t> decay_switches;
  };

  std::vector<int64_t> decay_switches(FlatRange range) const;
  void make_parts();
  void decide(Communicator& communicator, double mean, Vector<double> losses);
  void step_part(const Part& part, float learning_rate);
  Vector<float> slot(size_t index, int64_t begin, int64_t size) const;

  OptimizerConfig config_;
  const ParameterStore* store_;
  Device* device_;
  std::vector<FlatRange> owned_;
  std::vector<Part> parts_;
  DeviceBlock switches_;  // of all parts
  std::vector<std::string> slot_names_;
  std::vector<DeviceBlock> slot_blocks_;
  DeviceBlock decision_;
  DeviceBlock square_sums_;  // by block of the flat gradients
  bool in_slices_;           // the same on all ranks, also where one of them owns everything
  int64_t owned_size_ = 0;
};

}  // namespace itemloom
