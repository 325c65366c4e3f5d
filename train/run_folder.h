// The folder of a run: where its files are, and how to open what it has learned.
//
//   config.resolved.json  every value that has an effect, itself a config
//   config.origins.json   where each value comes from
//   dataset.h5            what the raw input was prepared to (not there when the input was a prepared file)
//   checkpoint-last.h5    everything needed to go on
//   checkpoint-best.h5    the epoch with the best validation metric
//   checkpoints/          the ones behind them, where training.keep_last or training.keep_best is above 1:
//                         last-epoch-000012.h5, best-epoch-000009.h5 (epochs count from 1, as in metrics.jsonl)
//   rank_K.log            log of rank K where there are several; the first one's goes to standard error
//   metrics.jsonl         one object an epoch
//   events.out.tfevents.* the same for TensorBoard
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "data/dataset.h"
#include "data/split.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/trainer.h"

namespace itemloom {

// Keeps a folder to one `itemloom train`: held from its making until the end of its life, which the end of the process
// is too, however it comes.
class FolderLock {
 public:
  // Throws Error when another process, or another lock of this one, holds the folder. Where the file system has no
  // locks nothing is held.
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FolderLock& operator=(FolderLock&&) = delete;

 private:
  int descriptor_;
};

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.resolved.json"; }
  std::string origins() const { return path_ + "/config.origins.json"; }
  std::string dataset() const { return path_ + "/dataset.h5"; }
  std::string last_checkpoint() const { return path_ + "/checkpoint-last.h5"; }
  std::string best_checkpoint() const { return path_ + "/checkpoint-best.h5"; }
  std::string kept_checkpoints() const { return path_ + "/checkpoints"; }
  std::string kept_last_checkpoint(int64_t epoch) const;
  std::string kept_best_checkpoint(int64_t epoch) const;
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  // What a rank other than the first has to say.
  std::string rank_log(int rank) const { return path_ + "/rank_" + std::to_string(rank) + ".log"; }
  bool holds_run() const;

  // Throws when the folder holds a run.
  void check_holds_no_run() const;

  // Makes the folder of a new run, with its dataset (unless it is read from a prepared file) and config. When that
  // fails, on a full disk for one, nothing of it stays.
  [[nodiscard]] FolderLock begin(const LoadedConfig& loaded, const Dataset& dataset) const;
  // Removes what begin() has written, of a run that has not taken its first step.
  void take_back() const;
  // To go on with the run of a folder that the caller has locked: clears away what killed writers left, and writes the
  // config, of which values that decide nothing about the parameters may have changed.
  void go_on(const LoadedConfig& loaded) const;

 private:
  void write_config(const LoadedConfig& loaded) const;

  std::string path_;
};

// The config of a run. Throws Error when the folder holds none.
Config run_config(const RunFolder& folder);

// Whether runs of this config keep a dataset in their folder, since none of their files is one.
bool has_own_dataset(const DataConfig& config);

// The dataset of a run: the folder's own where it has one, else what the config names.
Dataset run_dataset(const RunFolder& folder, const DataConfig& config);

// A finished or running run, opened for questions.
struct OpenedRun {
  RunFolder folder;
  Config config;
  Dataset dataset;
  Split split;
  std::unique_ptr<Device> device;  // on which the instance is
  std::unique_ptr<ModelInstance> instance;
  std::string checkpoint;         // the file the model is from
  std::string checkpoint_sha256;  // of its content
  CheckpointEntries entries;
};

// `checkpoint` is "last", "best", or the path of one of the run's checkpoints; empty: the best one where there is one,
// else the last. Throws Error when the folder holds no run or not that checkpoint, and when the dataset is not the one
// that was trained on.
// `device` is cpu or cuda; empty: the one that the run was trained on. `ordinal` counts GPUs. The split holds a part of
// the cases.
std::unique_ptr<OpenedRun> open_run(const std::string& folder, const std::string& checkpoint = "",
                                    const std::string& device = "", int ordinal = 0, const CasePart& part = {});

// The number of threads the config asks for. 0: one for each processor that this process may run on, shared among the
// ranks that may run on the same ones. A collective.
int threads_for(const TrainingConfig& config, Communicator& communicator);

// Sets the pool to it. A collective.
void use_threads(const TrainingConfig& config, Communicator& communicator);
void use_threads(const TrainingConfig& config);

}  // namespace itemloom
