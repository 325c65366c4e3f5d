// What a step needs of a rank's device, before there is one.
#pragma once

#include <cstdint>
#include <string>

#include "core/communicator.h"
#include "data/loader.h"
#include "train/config.h"

namespace itemloom {

// Bytes.
struct MemoryPlan {
  int64_t parameters;       // fp32, and with training.precision bf16 their rounded copy
  int64_t gradients;        // with training.bitwise_across_ranks also those that wait for other parts of a batch, with
                            // training.gradient_exchange bf16 also what is on its way
  int64_t optimizer_state;  // with optimizer.sharded about the largest share of a rank
  int64_t activations;      // at most, of the largest piece of a batch that can come, and their gradients
  int64_t workspace;        // on a GPU: cuBLAS's, and about what a tile of logits takes

  int64_t total() const { return parameters + gradients + optimizer_state + activations + workspace; }
  std::string text() const;
};

// Of a training step by each of the communicator's ranks; ranking in a validation takes some more. The step is walked
// through on a device that computes nothing, so that its activations are those of the real one.
MemoryPlan plan_memory(const Config& config, const Windows& windows, int64_t items, const Communicator& communicator);

}  // namespace itemloom
