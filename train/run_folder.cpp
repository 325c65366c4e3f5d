#include "train/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "core/files.h"
#include "core/host.h"
#include "core/parallel.h"
#include "data/prepare.h"

namespace itemloom {

FolderLock::FolderLock(const std::string& folder)
    : descriptor_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  close(descriptor_);
  fail("another itemloom train is running in ", folder, "; let it end, or choose another --run");
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

std::string RunFolder::kept_last_checkpoint(int64_t epoch) const {
  return fmt::format("{}/last-epoch-{:06}.h5", kept_checkpoints(), epoch);
}

std::string RunFolder::kept_best_checkpoint(int64_t epoch) const {
  return fmt::format("{}/best-epoch-{:06}.h5", kept_checkpoints(), epoch);
}

bool RunFolder::holds_run() const {
  return std::filesystem::exists(config());
}

void RunFolder::check_holds_no_run() const {
  CHECK(!holds_run(), path_, " already holds a run; add --resume to go on with it, or choose another --run");
}

FolderLock RunFolder::begin(const LoadedConfig& loaded, const Dataset& dataset) const {
  NewFolder folder(path_);
  FolderLock lock(path_);
  // Since it was looked at first, another process may have begun one and ended.
  check_holds_no_run();
  try {
    remove_leftovers(path_);
    if (has_own_dataset(loaded.values.data)) save_dataset(dataset, this->dataset());
    write_config(loaded);
  } catch (...) {
    take_back();
    throw;
  }
  folder.keep();
  return lock;
}

void RunFolder::take_back() const {
  std::error_code ignored;
  for (const std::string& file : {config(), origins(), dataset()}) std::filesystem::remove(file, ignored);
}

void RunFolder::go_on(const LoadedConfig& loaded) const {
  remove_leftovers(path_);
  remove_leftovers(kept_checkpoints());
  write_config(loaded);
}

// The config comes last, since it is what makes the folder a run.
void RunFolder::write_config(const LoadedConfig& loaded) const {
  write_whole_file(origins(), loaded.origins);
  write_whole_file(config(), loaded.resolved);
}

Config run_config(const RunFolder& folder) {
  CHECK(folder.holds_run(), folder.path(), " holds no run (there is no ", folder.config(), ")");
  return load_config(folder.config(), {}).values;
}

bool has_own_dataset(const DataConfig& config) {
  return config.format != "prepared" || config.files.size() > 1;
}

Dataset run_dataset(const RunFolder& folder, const DataConfig& config) {
  if (has_own_dataset(config) && std::filesystem::exists(folder.dataset())) return load_dataset(folder.dataset());
  return prepare(config);
}

int threads_for(const TrainingConfig& config, Communicator& communicator) {
  const std::vector<int> processors = allowed_processors();
  const std::string place = host_name() + '\n' + to_ranges(processors);
  const std::vector<std::string> places = communicator.all_gather_text(place);
  const auto sharing = std::count(places.begin(), places.end(), place);
  const int threads = std::max(1, static_cast<int>(processors.size()) / static_cast<int>(sharing));
  return config.threads > 0 ? static_cast<int>(config.threads) : threads;
}

void use_threads(const TrainingConfig& config, Communicator& communicator) {
  set_thread_count(threads_for(config, communicator));
}

void use_threads(const TrainingConfig& config) {
  use_threads(config, *make_self_communicator());
}

namespace {

// The file that `wanted` (see open_run) means.
std::string checkpoint_of(const RunFolder& folder, const std::string& wanted) {
  const bool named = wanted == "last" || wanted == "best";
  if (!wanted.empty() && !named) {
    CHECK(std::filesystem::exists(wanted), "--checkpoint: there is no file ", wanted, "; give a file, last or best");
    return wanted;
  }
  const bool has_best = std::filesystem::exists(folder.best_checkpoint());
  const bool best = wanted == "best" || (wanted.empty() && has_best);
  const std::string file = best ? folder.best_checkpoint() : folder.last_checkpoint();
  const bool exists = std::filesystem::exists(file);
  CHECK(exists || !named, "--checkpoint ", wanted, ": there is no ", file, " (yet)");
  CHECK(exists, folder.path(), " holds no checkpoint yet; let `itemloom train` finish an epoch");
  return file;
}

}  // namespace

std::unique_ptr<OpenedRun> open_run(const std::string& path, const std::string& wanted, const std::string& device,
                                    int ordinal, const CasePart& part) {
  const RunFolder folder(path);
  const Config config = run_config(folder);
  const std::string checkpoint = checkpoint_of(folder, wanted);
  auto run = std::make_unique<OpenedRun>(OpenedRun{.folder = folder,
                                                   .config = config,
                                                   .dataset = {},
                                                   .split = {},
                                                   .device = nullptr,
                                                   .instance = nullptr,
                                                   .checkpoint = checkpoint,
                                                   .checkpoint_sha256 = {},
                                                   .entries = {}});
  use_threads(run->config.training);
  const DeviceKind kind = device_kind(device.empty() ? run->config.device : device);
  run->device = std::make_unique<Device>(kind, ordinal, precision_on(kind, run->config.training));
  run->dataset = run_dataset(folder, run->config.data);
  run->split = make_split(run->dataset, run->config.data, part);
  run->instance = std::make_unique<ModelInstance>(*run->device, run->config.model, run->dataset.item_count(),
                                                  run->config.data.max_length,
                                                  static_cast<uint64_t>(run->config.training.seed), false);
  CheckpointState state;
  HostImage parameters(*run->device, run->instance->parameters().values());
  state.parameters = tensors_of(run->instance->parameters(), parameters.floats());
  state.texts["dataset_hash"] = run->dataset.hash;
  run->checkpoint_sha256 = load_checkpoint(checkpoint, state);
  parameters.upload();
  run->instance->values_changed();
  run->entries = state;
  return run;
}

}  // namespace itemloom
