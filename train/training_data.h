// What a run trains and asks about, read once and checked before anything is written.
#pragma once

#include <vector>

#include "core/communicator.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/split.h"
#include "train/config.h"
#include "train/trainer.h"

namespace itemloom {

struct TrainingData {
  Dataset dataset;
  Split split;  // with this rank's part of the cases
};

// Throws Error when nothing is left to train on or to ask about.
TrainingData make_training_data(Dataset dataset, const DataConfig& config, const Communicator& communicator);

// The windows of the data, which must outlive them.
Windows training_windows(const TrainingData& data, const DataConfig& config);

LoaderOptions loader_options(const Config& config, const ShardPlan& plan);

// Steps of the whole run, of which the first epoch has `batches`; with batches by tokens their number varies a little
// between epochs, and the first one stands for all.
int64_t total_steps(const Config& config, int64_t batches);

// Throws Error when the ranks cannot share a batch, or all that there is, and when the run ends before its warm-up.
void check_plan(const Config& config, const TrainingData& data, const Communicator& communicator);

// Throws Error when graphs are asked for where ITEMLOOM_CUDA_SYNC=1 is in force. `training` is valid for the device.
void check_graphs(const TrainingConfig& training, Device& device);

// Collectives that throw SharedError naming a rank where it differs from rank 0: the config and the kernels, the
// dataset, or any text (`what` it is of, and what to do about it).
void check_same_config(Communicator& communicator, const LoadedConfig& config);
void check_own_gpus(Communicator& communicator, Device& device);  // that no two ranks have the same one
void check_same_dataset(Communicator& communicator, const Dataset& dataset);
void check_same(Communicator& communicator, const std::string& mine, const std::string& what,
                const std::string& advice);

}  // namespace itemloom
