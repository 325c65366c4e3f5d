#include "train/training_run.h"

#include <spdlog/spdlog.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/files.h"
#include "data/prepare.h"
#include "data/report.h"
#include "train/config_fingerprint.h"
#include "train/evaluate.h"
#include "train/memory_plan.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/training_data.h"

namespace itemloom {
namespace {

void check_same_run(const LoadedConfig& loaded, const RunFolder& folder) {
  const std::string difference = first_deciding_difference(loaded.values, load_config(folder.config(), {}).values);
  CHECK(difference.empty(), "--resume: ", folder.path(), " was begun with another config: ", difference,
        "; give the values it was begun with, or another --run");
}

// The folder and the data of a run, as rank 0 has them; the other ranks read what it has written there.
class RunStart {
 public:
  RunStart(const LoadedConfig& loaded, const RunFolder& folder, bool resume, Device& device, Communicator& communicator)
      : loaded_(loaded), folder_(folder), resume_(resume), device_(device), communicator_(communicator) {}

  // On rank 0: reads and checks everything before the folder of a new run is made.
  void begin() {
    if (resume_) {
      CHECK(folder_.holds_run(), "--resume: ", folder_.path(), " holds no run");
      // Before anything of it is read, which another process may be changing.
      lock_.emplace(folder_.path());
      check_same_run(loaded_, folder_);
    } else {
      folder_.check_holds_no_run();
      check_folder_can_be_made(folder_.path());
    }
    const DataConfig& config = loaded_.values.data;
    data_ = make_training_data(resume_ ? run_dataset(folder_, config) : prepare(config), config, communicator_);
    check_plan(loaded_.values, *data_, communicator_);
    report_ = data_->dataset.report;
    has_checkpoint_ = resume_ && std::filesystem::exists(folder_.last_checkpoint());
    if (!resume_) lock_.emplace(folder_.begin(loaded_, data_->dataset));
  }

  // On the other ranks. The first one of a host verifies the file for all of them.
  void join() {
    const DataConfig& config = loaded_.values.data;
    const std::string path = has_own_dataset(config) ? folder_.dataset() : config.files.front();
    try {
      if (communicator_.local_rank() == 0) load_dataset(path);
      data_ = make_training_data(load_dataset(path, DatasetUse::kTraining), config, communicator_);
    } catch (const Error& error) {
      fail(error.what(),
           " (all hosts need the same files: keep --run and data.files where each of them can read them)");
    }
    make_folder(folder_.path());
    log_to_file(folder_.rank_log(communicator_.rank()));
  }

  RunOutcome run() {
    communicator_.broadcast(&has_checkpoint_, sizeof has_checkpoint_);
    check_same_dataset(communicator_, data_->dataset);
    const MemoryPlan plan =
        plan_memory(loaded_.values, training_windows(*data_, loaded_.values.data), data_->dataset.item_count(),
                    ranking_cases(data_->dataset, data_->split.validation), communicator_);
    or_take_back([&] { try_state(plan); });
    TrainingLoop loop(loaded_, folder_, std::move(*data_), device_, communicator_);
    if (has_checkpoint_) loop.restore();
    together(communicator_, [&] {
      if (!resume_ || !communicator_.is_first()) return;
      folder_.go_on(loaded_);
      loop.take_over_checkpoints();
    });
    if (communicator_.is_first()) {
      std::fputs(report_text(nlohmann::ordered_json::parse(report_)).c_str(), stderr);
      if (resume_ && !has_checkpoint_)
        spdlog::info("{} has no checkpoint yet: beginning from the start", folder_.path());
    }
    or_take_back([&] { loop.reserve_memory(plan); });
    return loop.run();
  }

 private:
  // A collective. Where there is no memory, what is to be changed decides results: the folder of a new run must not
  // hold to the config as it was.
  void or_take_back(FunctionRef<void()> take) {
    try {
      take();
    } catch (const Error&) {
      if (!resume_ && communicator_.is_first()) folder_.take_back();
      throw;
    }
  }

  // Whether a GPU has room for what is taken piece by piece, by calls that are collectives and cannot fail on one rank
  // alone. The host's memory is not there before it is touched, so that trying it would take as long as using it.
  void try_state(const MemoryPlan& plan) {
    if (!device_.cuda()) return;
    const std::string keys =
        communicator_.size() > 1 ? "model.hidden_size, or set optimizer.sharded" : "model.hidden_size or model.layers";
    together(communicator_, [&] {
      take_planned("parameters, gradients and the optimizer's state", plan.state(), keys,
                   [&] { device_.allocate(plan.state()); });
    });
  }

  const LoadedConfig& loaded_;
  const RunFolder& folder_;
  bool resume_;
  Device& device_;
  Communicator& communicator_;
  std::optional<TrainingData> data_;
  std::optional<FolderLock> lock_;
  std::string report_;
  bool has_checkpoint_ = false;
};

}  // namespace

RunOutcome train_run(const LoadedConfig& loaded, const std::string& path, bool resume, Communicator& communicator) {
  communicator.status().enter(RankPhase::kReadingData);
  check_same_config(communicator, loaded);
  use_threads(loaded.values.training, communicator);
  const RunFolder folder(path);
  // Before anything is read or written: a GPU that is not there is soon said.
  std::optional<Device> device;
  together(communicator, [&] {
    const DeviceKind kind = device_kind(loaded.values.device);
    device.emplace(kind, communicator.local_rank(), precision_on(kind, loaded.values.training));
    check_graphs(loaded.values.training, *device);
  });
  check_own_gpus(communicator, *device);
  RunStart start(loaded, folder, resume, *device, communicator);
  together(communicator, [&] {
    if (communicator.is_first()) start.begin();
  });
  together(communicator, [&] {
    if (!communicator.is_first()) start.join();
  });
  return start.run();
}

}  // namespace itemloom
