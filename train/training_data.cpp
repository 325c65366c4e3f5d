#include "train/training_data.h"

#include <algorithm>

#include "core/host.h"
#include "optim/schedule.h"
#include "train/config_fingerprint.h"

namespace itemloom {

TrainingData make_training_data(Dataset dataset, const DataConfig& config, const Communicator& communicator) {
  TrainingData data{.dataset = std::move(dataset), .split = {}};
  data.split = make_split(data.dataset, config, {.index = communicator.rank(), .count = communicator.size()});
  CHECK(training_windows(data, config).size() > 0,
        "there is no training sequence: every one is empty after the split; look at data.filters and data.split");
  return data;
}

Windows training_windows(const TrainingData& data, const DataConfig& config) {
  const std::vector<int64_t>& ends = data.split.training_ends;
  return Windows(Vector<const int64_t>(data.dataset.offsets.data(), data.dataset.sequence_count()),
                 Vector<const int64_t>(ends.data(), static_cast<int64_t>(ends.size())), config);
}

LoaderOptions loader_options(const Config& config, const ShardPlan& plan) {
  return {.max_length = config.data.max_length,
          .batch_sequences = config.training.batch_size,
          .batch_tokens = config.training.batch_tokens,
          .piece_tokens = piece_tokens_on(device_kind(config.device), config.training),
          .seed = static_cast<uint64_t>(config.training.seed),
          .bucket = config.training.cuda_graphs ? config.training.graph_bucket : 0,
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
  const Windows windows = training_windows(data, config.data);
  CHECK(windows.size() >= ranks, "there are ", windows.size(), " training sequences for ", ranks,
        " ranks; take fewer ranks");
  const EpochPlan plan(windows, loader_options(config, shard_plan(config.training, communicator)), 0);
  check_warmup_ends(config.optimizer.schedule, total_steps(config, plan.batches()));
}

void check_same_config(Communicator& communicator, const LoadedConfig& config) {
  if (const auto differs = find_disagreement(communicator, common_text(config.values))) {
    throw SharedError(join_message(
        "rank ", differs->rank, " has another config than rank 0: ", first_difference(differs->first, differs->other),
        "; give all ranks the same config file and settings"));
  }
  // Sums of other widths round in another way: the ranks' parameters would drift apart.
  check_same(communicator, cpu_kernels(), "kernels", "set ITEMLOOM_CPU=avx2 for all ranks");
}

void check_own_gpus(Communicator& communicator, Device& device) {
  if (!device.cuda()) return;
  const std::vector<std::string> gpus =
      communicator.all_gather_text(host_name() + " has one GPU (" + cuda_backend::gpu_id(*device.cuda()) + ")");
  for (size_t rank = 0; rank < gpus.size(); ++rank) {
    const size_t first = static_cast<size_t>(std::find(gpus.begin(), gpus.end(), gpus[rank]) - gpus.begin());
    if (first == rank) continue;
    throw SharedError(join_message("device is cuda, but ", gpus[rank], " for ranks ", first, " and ", rank,
                                   "; start at most one rank a GPU, or show more GPUs with CUDA_VISIBLE_DEVICES"));
  }
}

void check_graphs(const TrainingConfig& training, Device& device) {
  CHECK(!training.cuda_graphs || !cuda_backend::waits_for_kernels(*device.cuda()),
        "ITEMLOOM_CUDA_SYNC=1 waits for every kernel, but with training.cuda_graphs kernels are launched as graphs; "
        "unset it, or set training.cuda_graphs to false");
}

void check_same_dataset(Communicator& communicator, const Dataset& dataset) {
  check_same(communicator, "SHA-256 " + dataset.hash, "dataset", "give all ranks the same data.files");
}

void check_same(Communicator& communicator, const std::string& mine, const std::string& what,
                const std::string& advice) {
  constexpr size_t kShown = 20;  // of a hash, its name and twelve digits
  if (const auto differs = find_disagreement(communicator, mine)) {
    throw SharedError(join_message("rank ", differs->rank, " has another ", what, " than rank 0 (",
                                   differs->other.substr(0, kShown), " there, ", differs->first.substr(0, kShown),
                                   " on rank 0); ", advice));
  }
}

}  // namespace itemloom
