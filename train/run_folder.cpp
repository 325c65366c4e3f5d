#include "train/run_folder.h"

#include <filesystem>

#include "core/parallel.h"
#include "data/prepare.h"

namespace itemloom {

bool RunFolder::holds_run() const {
  return std::filesystem::exists(config());
}

Dataset run_dataset(const RunFolder& folder, const DataConfig& config) {
  if (config.format != "prepared" && std::filesystem::exists(folder.dataset())) return load_dataset(folder.dataset());
  return prepare(config);
}

void use_threads(const TrainingConfig& config) {
  if (config.threads > 0) set_thread_count(static_cast<int>(config.threads));
}

std::unique_ptr<OpenedRun> open_run(const std::string& path) {
  const RunFolder folder(path);
  CHECK(folder.holds_run(), path, " holds no run (there is no ", folder.config(), ")");
  const bool best = std::filesystem::exists(folder.best_checkpoint());
  const std::string checkpoint = best ? folder.best_checkpoint() : folder.last_checkpoint();
  CHECK(std::filesystem::exists(checkpoint), path, " holds no checkpoint yet; let `itemloom train` finish an epoch");

  auto run = std::make_unique<OpenedRun>(OpenedRun{.folder = folder,
                                                   .config = load_config(folder.config(), {}).values,
                                                   .dataset = {},
                                                   .split = {},
                                                   .instance = nullptr,
                                                   .checkpoint = checkpoint,
                                                   .checkpoint_sha256 = {},
                                                   .entries = {},
                                                   .device = {}});
  use_threads(run->config.training);
  run->dataset = run_dataset(folder, run->config.data);
  run->split = make_split(run->dataset, run->config.data);
  run->instance =
      std::make_unique<ModelInstance>(run->config.model, run->dataset.item_count(), run->config.data.max_length,
                                      static_cast<uint64_t>(run->config.training.seed));
  CheckpointState state;
  state.parameters = tensors_of(run->instance->parameters(), run->instance->parameters().values());
  load_checkpoint(checkpoint, state);
  run->entries = state;
  run->checkpoint_sha256 = checkpoint_content_hash(checkpoint);
  CHECK(run->entries.texts.at("dataset_hash") == run->dataset.hash, checkpoint, " was trained on another dataset than ",
        run->config.data.format == "prepared" ? run->config.data.files.front() : folder.dataset(), " holds now");
  return run;
}

}  // namespace itemloom
