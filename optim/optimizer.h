// Optimizers over the flat parameter buffers: Adam, AdamW, SGD with momentum and RMSprop (kernels/optimizer_step.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/memory.h"
#include "core/parameters.h"
#include "optim/config.h"

namespace itemloom {

class Optimizer {
 public:
  // State buffers as large as the parameters, zero.
  Optimizer(const OptimizerConfig& config, const ParameterStore& store);

  // The number of steps taken, which Adam's bias correction counts; set on resume.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // One step with gradients scaled by `gradient_scale`; zeroes the gradients. Weight decay skips vectors (biases and
  // norm gains).
  void step(Device& device, double learning_rate, double gradient_scale);

  // A state buffer, laid out as the parameters: "first_moment", "second_moment", "velocity", "square".
  struct Slot {
    std::string name;
    Vector<float> values;
  };
  std::vector<Slot> slots() const;

 private:
  void step_range(Device& device, int64_t begin, int64_t size, float learning_rate, float gradient_scale,
                  float weight_decay);
  Vector<float> slot(size_t index, int64_t begin, int64_t size) const;

  // Neighbouring parameters with the same decay are one range.
  struct Range {
    int64_t begin;
    int64_t size;
    bool decays;
  };

  OptimizerConfig config_;
  const ParameterStore* store_;
  std::vector<Range> ranges_;
  std::vector<std::string> slot_names_;
  std::vector<HostBlock> slot_blocks_;
  int64_t steps_ = 0;
};

// The 2-norm of the gradients times `gradient_scale`; infinite or NaN when a gradient is.
double gradient_norm(Device& device, Vector<const float> gradients, double gradient_scale);

}  // namespace itemloom
