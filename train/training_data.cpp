#include "train/training_data.h"

#include <algorithm>

#include "optim/schedule.h"
#include "train/config_fingerprint.h"

namespace itemloom {
namespace {

// The first rank whose text is not rank 0's, or -1.
int first_other(const std::vector<std::string>& texts) {
  const auto other = std::find_if(texts.begin(), texts.end(), [&](const auto& text) { return text != texts.front(); });
  return other == texts.end() ? -1 : static_cast<int>(other - texts.begin());
}

}  // namespace

TrainingData make_training_data(Dataset dataset, const DataConfig& config) {
  TrainingData data{.dataset = std::move(dataset), .split = {}, .windows = {}};
  data.split = make_split(data.dataset, config);
  const std::vector<int64_t>& ends = data.split.training_ends;
  data.windows = make_windows(Vector<const int64_t>(data.dataset.offsets.data(), data.dataset.sequence_count()),
                              Vector<const int64_t>(ends.data(), static_cast<int64_t>(ends.size())), config);
  CHECK(!data.windows.empty(),
        "there is no training sequence: every one is empty after the split; look at data.filters and data.split");
  return data;
}

LoaderOptions loader_options(const Config& config, const ShardPlan& plan) {
  return {.max_length = config.data.max_length,
          .batch_sequences = config.training.batch_size,
          .batch_tokens = config.training.batch_tokens,
          .piece_tokens = config.training.micro_batch_tokens,
          .seed = static_cast<uint64_t>(config.training.seed),
          .shards = plan.shards,
          .first_shard = plan.first_shard,
          .local_shards = plan.local_shards};
}

int64_t total_steps(const Config& config, int64_t batches) {
  const int64_t given = config.optimizer.schedule.total_steps;
  return given > 0 ? given : config.training.epochs * batches;
}

void check_plan(const Config& config, const TrainingData& data, const Communicator& communicator) {
  const int ranks = communicator.size();
  CHECK(config.training.batch_tokens > 0 || config.training.batch_size >= ranks, "training.batch_size is ",
        config.training.batch_size, ", but ", ranks, " ranks share a batch; take fewer ranks or a larger batch");
  CHECK(static_cast<int64_t>(data.windows.size()) >= ranks, "there are ", data.windows.size(),
        " training sequences for ", ranks, " ranks; take fewer ranks");
  const ShardPlan shards = shard_plan(config.training, communicator);
  EpochPlan plan;
  plan_epoch(data.windows, loader_options(config, shards), 0, plan);
  check_warmup_ends(config.optimizer.schedule, total_steps(config, plan.batches()));
}

void check_same_config(Communicator& communicator, const LoadedConfig& config) {
  const std::vector<std::string> fingerprints = communicator.all_gather_text(config_fingerprint(config.values));
  const std::vector<std::string> files = communicator.all_gather_text(deciding_text(config.values));
  const int other = first_other(fingerprints);
  if (other < 0) return;
  throw SharedError(join_message("rank ", other, " has another config than rank 0: ",
                                 first_deciding_difference(files.front(), files[static_cast<size_t>(other)]),
                                 "; give all ranks the same config file and settings"));
}

void check_same_dataset(Communicator& communicator, const Dataset& dataset) {
  const std::vector<std::string> hashes = communicator.all_gather_text(dataset.hash);
  const int other = first_other(hashes);
  if (other < 0) return;
  throw SharedError(join_message("rank ", other, " has another dataset than rank 0 (SHA-256 ",
                                 hashes[static_cast<size_t>(other)].substr(0, 12), " there, ",
                                 hashes.front().substr(0, 12), " on rank 0); give all ranks the same data.files"));
}

}  // namespace itemloom
