// A whole training run in its folder: epochs, validation, early stopping, checkpoints, and the answers to signals.
#pragma once

#include <string>

#include "core/communicator.h"
#include "train/config.h"
#include "train/training_loop.h"

namespace itemloom {

// Trains what `config` says in `folder`, by all ranks of the communicator together. A new run refuses a folder that
// holds one; `resume` goes on from its last checkpoint (from the start where there is none yet), whatever number of
// ranks wrote it, and refuses a config that would learn something else. Throws Error for wrong input, for a full disk,
// and when too many steps in a row had no finite gradient; SharedError where all ranks throw the same.
RunOutcome train_run(const LoadedConfig& config, const std::string& folder, bool resume, Communicator& communicator);

}  // namespace itemloom
