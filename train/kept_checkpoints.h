// Which checkpoints of a run stay, under which names: the newest ones and the best ones.
//
// The newest is RUN/checkpoint-last.h5, the best is RUN/checkpoint-best.h5; the ones behind them are in
// RUN/checkpoints/ under names with their epoch. Nothing is remembered beside the files: which ones are best is read
// from the files themselves, so that a stop at any moment loses nothing. This class only plans; CheckpointWriter does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint_writer.h"
#include "train/run_folder.h"

namespace itemloom {

// Where the training stands that is to be saved.
struct CheckpointPlace {
  int64_t epoch = 0;             // epochs finished
  int64_t batch = 0;             // batches done of the next one
  bool newest = true;            // whether it is to be the run's newest checkpoint
  std::optional<double> metric;  // of the validation that ended the epoch; larger is better
};

class KeptCheckpoints {
 public:
  // `last` and `best` are training.keep_last and training.keep_best.
  KeptCheckpoints(const RunFolder& folder, int64_t last, int64_t best);

  // The entry (CheckpointEntries::numbers) by which a checkpoint carries CheckpointPlace::metric.
  static constexpr char kMetric[] = "metric";

  // Finds what an earlier process has left and gives what makes it as promised: after a kill, or with other numbers to
  // keep, there may be more. Damaged ones among the best do not count and are warned of;
  // a file behind the newest is known by its name alone.
  CheckpointTargets find();

  // What to do to save a state as the newest, as one of the best, both, or neither. It is taken for done: when doing it
  // fails, this object must not be used any more.
  //
  // A state in the middle of an epoch is for going on only: it is replaced by the next one and never kept beside it.
  CheckpointTargets add(const CheckpointPlace& place);

 private:
  struct Kept {
    int64_t epoch = 0;
    int64_t batch = 0;
    double metric = 0;
    std::string path;  // empty: to be written
  };
  using Names = std::string (RunFolder::*)(int64_t) const;

  void find_newest();
  void find_best();
  // Cuts the list to `count`, names each by its rank and adds what leads there to `targets`.
  void settle(std::vector<Kept>& kept, int64_t count, const std::string& first, Names others,
              CheckpointTargets& targets);
  CheckpointTargets settle();

  RunFolder folder_;
  int64_t keep_last_, keep_best_;
  std::vector<Kept> newest_;          // the newest first
  std::vector<Kept> best_;            // the best first; of equal ones the earlier
  std::vector<std::string> surplus_;  // files that are to go with the next targets
};

}  // namespace itemloom
