// A whole training run in its folder: epochs, validation, early stopping, checkpoints, and the answers to signals.
#pragma once

#include <string>

#include "train/config.h"

namespace itemloom {

enum class RunOutcome {
  kFinished,  // all epochs, or stopped early
  kStopped,   // SIGINT or SIGTERM: the state is saved, and resuming goes on from it
};

// Trains what `config` says in `folder`. A new run refuses a folder that holds one; `resume` goes on from its last
// checkpoint (from the start where there is none yet) and refuses a config that would learn something else. Throws
// Error for wrong input, for a full disk, and when too many steps in a row had no finite gradient.
RunOutcome train_run(const LoadedConfig& config, const std::string& folder, bool resume);

}  // namespace itemloom
