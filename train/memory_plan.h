// What training needs of a rank's device, before there is one.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/communicator.h"
#include "core/parallel.h"
#include "data/loader.h"
#include "train/config.h"
#include "train/ranking.h"
#include "train/scorers.h"

namespace itemloom {

// Bytes.
struct MemoryPlan {
  int64_t parameters;       // fp32, and with training.precision bf16 their rounded copy
  int64_t gradients;        // with training.bitwise_across_ranks also those that wait for other parts of a batch, with
                            // training.gradient_exchange bf16 also what is on its way
  int64_t optimizer_state;  // with optimizer.sharded of the rank that has most
  int64_t activations;      // at most, of the largest piece of a batch that can come, and their gradients
  ScorerMemory validation;  // where there is one
  int64_t scratch;          // of the kernel that takes most
  int64_t libraries;        // on a GPU: cuBLAS's

  int64_t state() const { return parameters + gradients + optimizer_state; }
  int64_t workspace() const { return scratch + libraries; }
  int64_t total() const { return state() + activations + validation.total() + workspace(); }
  std::string text() const;
};

// Of training by each of the communicator's ranks, of which this one has these cases in a validation. A step and a tile
// of cases are walked through on a device that computes nothing, so that what they take is what the real ones do.
MemoryPlan plan_memory(const Config& config, const Windows& windows, int64_t items,
                       std::span<const RankingCase> validation, const Communicator& communicator);

// Runs `take`. Where there is no memory for it, the error also says what it is that needs so many bytes and which keys
// to lower.
void take_planned(const char* what, int64_t bytes, const std::string& keys, FunctionRef<void()> take);

}  // namespace itemloom
