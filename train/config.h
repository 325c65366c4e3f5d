// The whole configuration of a run.
#pragma once

#include "core/config.h"
#include "core/device.h"
#include "data/config.h"
#include "layers/models/config.h"
#include "optim/config.h"

namespace itemloom {

struct EarlyStoppingConfig {
  std::string metric = "ndcg@10";
  int64_t patience = 0;

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("metric", metric,
                {.help = "The validation metric that says which checkpoint is best; one of evaluation.metrics."});
    visit.field("patience", patience,
                {.help = "Training ends after this many validations without a better metric; 0: never.", .minimum = 0});
  }
};

// Of training.gradient_shards.
inline constexpr int64_t kMostShards = 1024;

struct TrainingConfig {
  int64_t epochs = 100;
  int64_t batch_size = 64;
  int64_t batch_tokens = 0;
  int64_t micro_batch_tokens = 0;
  int64_t seed = 1;
  std::string precision = "fp32";
  std::string gradient_exchange = "fp32";
  bool cuda_graphs = false;
  int64_t graph_bucket = 512;
  int64_t threads = 0;
  int64_t validate_every = 1;
  EarlyStoppingConfig early_stopping;
  int64_t checkpoint_every = 1;
  int64_t keep_last = 1;
  int64_t keep_best = 1;
  int64_t max_skipped_steps = 10;
  bool bitwise_across_ranks = false;
  int64_t gradient_shards = 8;
  int64_t rank_timeout = 300;

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("epochs", epochs, {.help = "Passes over the training sequences.", .minimum = 1});
    visit.field("batch_size", batch_size,
                {.help = "Sequences of a batch.",
                 .minimum = 1,
                 .active = batch_tokens == 0,
                 .active_when = "training.batch_tokens is 0"});
    visit.field("batch_tokens", batch_tokens,
                {.help = "Items of a batch at most, at least data.max_length; 0: batches are counted in sequences, by "
                         "batch_size.",
                 .minimum = 0});
    visit.field("micro_batch_tokens", micro_batch_tokens,
                {.help = "A batch is worked through in parts of about this many items, whose gradients are summed for "
                         "one step of the optimizer: smaller parts need less memory and stay in a CPU's caches, larger "
                         "ones keep a GPU busy; 0: 2048 on the CPU, 32768 on a GPU. The last digits of results depend "
                         "on it.",
                 .minimum = 0});
    visit.field("seed", seed, {.help = "Start of all that is random.", .minimum = 0});
    visit.field(
        "precision", precision,
        {.help = "What layers compute with where device is cuda. tf32: matrix products round their factors to 10 "
                 "bits of fraction; attention stays fp32. bf16: activations and their gradients are stored as "
                 "bf16, 7 bits of fraction. Sums, parameters and the optimizer are fp32 in any case.",
         .choices = {"fp32", "tf32", "bf16"}});
    visit.field(
        "gradient_exchange", gradient_exchange,
        {.help = "What gradients travel in between ranks where device is cuda. bf16: half the bytes; each rank's "
                 "gradient is rounded to 7 bits of fraction, and so are the sums on the way. A rank alone exchanges, "
                 "and rounds, nothing.",
         .choices = {"fp32", "bf16"}});
    visit.field("cuda_graphs", cuda_graphs,
                {.help = "Where device is cuda: launch forward and backward as recorded graphs instead of kernel by "
                         "kernel. Parts of a batch are filled up with rows that count for nothing, see graph_bucket."});
    visit.field("graph_bucket", graph_bucket,
                {.help = "Parts of a batch are filled up to a multiple of this many items, and their masked items to a "
                         "multiple of a quarter of it. A larger bucket means fewer graphs and more items that count "
                         "for nothing.",
                 .minimum = 4,
                 .maximum = 65536,
                 .active = cuda_graphs,
                 .active_when = "training.cuda_graphs is true"});
    visit.field("threads", threads,
                {.help = "Threads that compute; 0: one for each core. Results do not depend on it.",
                 .minimum = 0,
                 .maximum = 4096});
    visit.field("validate_every", validate_every, {.help = "Epochs between two validations; 0: none.", .minimum = 0});
    visit.group("early_stopping", early_stopping,
                {.help = "Which checkpoint is best, and when to stop.",
                 .active = validate_every > 0,
                 .active_when = "training.validate_every is not 0"});
    visit.field(
        "checkpoint_every", checkpoint_every,
        {.help = "Epochs between two checkpoints; the last epoch has one in any case; 0: only that.", .minimum = 0});
    visit.field("keep_last", keep_last, {.help = "How many of the newest checkpoints stay.", .minimum = 1});
    visit.field("keep_best", keep_best,
                {.help = "How many of the best checkpoints stay.",
                 .minimum = 1,
                 .active = validate_every > 0,
                 .active_when = "training.validate_every is not 0"});
    visit.field("max_skipped_steps", max_skipped_steps,
                {.help = "Steps in a row that may be skipped for a loss or gradient that is not finite; one more ends "
                         "the run.",
                 .minimum = 0});
    visit.field("bitwise_across_ranks", bitwise_across_ranks,
                {.help = "Make results the same bits for any number of ranks that divides gradient_shards, at some "
                         "cost in speed; without it they agree to rounding."});
    visit.field("gradient_shards", gradient_shards,
                {.help = "Parts of a batch whose gradients are summed in a fixed tree; a power of two. The last digits "
                         "of results depend on it.",
                 .minimum = 1,
                 .maximum = kMostShards,
                 .active = bitwise_across_ranks,
                 .active_when = "training.bitwise_across_ranks is true"});
    visit.field("rank_timeout", rank_timeout,
                {.help = "Seconds after which a rank that does not move ends the run of all ranks.", .minimum = 1});
  }
};

struct EvaluationConfig {
  std::vector<std::string> metrics = {"hit@1", "hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr"};
  std::string seen_items = "exclude";
  int64_t batch_size = 64;
  bool dump_ranks = false;

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("metrics", metrics,
                {.help = "hit, ndcg, mrr, recall, precision or map, each @ a cut-off like ndcg@10; mrr and map also "
                         "without one. The order is the order of the output."});
    visit.field("seen_items", seen_items,
                {.help = "exclude: items of the user's history are not ranked; keep: they are. Decides which figures "
                         "are the run's; the other ones are reported beside them.",
                 .choices = {"exclude", "keep"}});
    visit.field("batch_size", batch_size,
                {.help = "Users ranked at a time; results do not depend on it.", .minimum = 1});
    visit.field("dump_ranks", dump_ranks, {.help = "Write the rank of every held-out item to a file of the run."});
  }
};

struct ExportConfig {
  int64_t neighbors = 20;
  int64_t associations = 20;

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("neighbors", neighbors, {.help = "Nearest items written for each item; 0: none.", .minimum = 0});
    visit.field("associations", associations,
                {.help = "Associated items written for each item; 0: none.", .minimum = 0});
  }
};

struct Config {
  DataConfig data;
  MaskingConfig masking;
  ModelConfig model;
  TrainingConfig training;
  OptimizerConfig optimizer;
  EvaluationConfig evaluation;
  ExportConfig export_;
  std::string device = "cpu";

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.group("data", data, {.help = "What to read and how."});
    visit.group("masking", masking, {.help = "Which items training hides."});
    visit.group("model", model, {.help = "The shape of the model."});
    visit.group("training", training, {.help = "The course of training."});
    visit.group("optimizer", optimizer, {.help = "How parameters are updated."});
    visit.group("evaluation", evaluation, {.help = "What is measured on held-out items."});
    visit.group("export", export_, {.help = "What `itemloom export` writes."});
    visit.field(
        "device", device,
        {.help = "Where to train, and where what asks a finished run computes unless its --device says otherwise.",
         .choices = {"cpu", "cuda"}});
  }
};

// Of a value of `device`.
DeviceKind device_kind(const std::string& device);
// What training.precision means on a device; the CPU has fp32 only.
Precision precision_on(DeviceKind kind, const TrainingConfig& training);
// What training.micro_batch_tokens means on a device.
int64_t piece_tokens_on(DeviceKind kind, const TrainingConfig& training);

// Throws Error, naming the keys, when values do not fit each other: heads that do not divide the hidden size, an
// unknown metric, a split by time without times, ...
void validate(const Config& config);

struct LoadedConfig {
  Config values;
  // JSON texts for the run's folder. `resolved` holds all values that have an effect, with absolute paths, and is a
  // config itself; `origins` says in the same shape where each comes from: "default", a file, or "--set".
  std::string resolved;
  std::string origins;
};

// Reads and validates a config file with settings (KEY=VALUE) over it, see core/config_reader.h.
LoadedConfig load_config(const std::string& path, const std::vector<std::string>& settings);

// The JSON Schema of config files.
std::string config_schema();

}  // namespace itemloom
