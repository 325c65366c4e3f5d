// Whole training steps on batches shaped like real data: 256 sequences, two layers, two heads, mask 0.2, AdamW.
//
// The limit counts what a packed implementation must compute when only masked rows reach the head (72 d^2 of products
// a token and layer, forward and backward, 12 d n^2 of attention a sequence and layer, 6 V d a masked row); the last
// block works on masked rows only, so a step can come below it.

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "optim/optimizer.h"
#include "scripts/bench/bench.h"
#include "train/trainer.h"

namespace itemloom::bench {
namespace {

constexpr int64_t kBatch = 256;

// ML-1M's training sequences, capped at 200: a third is full, mean length 107.9, mean square about 16,400.
std::vector<int64_t> long_lengths() {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < kBatch; ++i) {
    const double quantile = (static_cast<double>(i) + 0.5) / kBatch;
    lengths.push_back(quantile > 0.67 ? 200 : 16 + std::lround(93 * quantile / 0.67));
  }
  return lengths;
}

// Amazon Beauty's, capped at 50: mean length 6.7, mean square about 89.
std::vector<int64_t> short_lengths() {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < kBatch; ++i) {
    const double quantile = (static_cast<double>(i) + 0.5) / kBatch;
    lengths.push_back(quantile > 0.92 ? 10 + std::lround(30 * (quantile - 0.92) / 0.08)
                                      : 3 + std::lround(-2.3 * std::log(1 - quantile / 0.92 * 0.99)));
  }
  return lengths;
}

struct StepState {
  StepState(const std::vector<int64_t>& lengths, int64_t items, int64_t max_length, int64_t width) {
    config.data.max_length = max_length;
    config.model.hidden_size = width;
    config.model.dropout = 0.2;
    config.model.attention_dropout = 0.2;
    config.masking.mask_last_share = 0;
    offsets.push_back(0);
    for (int64_t length : lengths) {
      // Popular items are common, as in shops.
      for (int64_t i = 0; i < length; ++i) {
        const double draw = std::fmod(0.6180339887 * static_cast<double>(history.size()), 1.0);
        history.push_back(static_cast<int32_t>(std::min<double>(items - 1, std::pow(draw, 2) * items)));
      }
      offsets.push_back(static_cast<int64_t>(history.size()));
    }
    instance = std::make_unique<ModelInstance>(device, config.model, items, max_length, 1);
    const Windows windows(Vector<const int64_t>(offsets.data(), lengths.size()),
                          Vector<const int64_t>(offsets.data() + 1, lengths.size()), config.data);
    loader = std::make_unique<Loader>(Vector<const int32_t>(history.data(), history.size()), windows,
                                      Masking(config.masking, 1, items),
                                      LoaderOptions{.max_length = max_length,
                                                    .batch_sequences = kBatch,
                                                    .batch_tokens = 0,
                                                    .piece_tokens = piece_tokens_on(device.kind(), config.training),
                                                    .seed = 1});
    batch = &loader->load(0, 0);
    step = std::make_unique<TrainingStep>(device, *communicator, *instance, config, 1000);
  }

  Config config;
  Device device;
  std::vector<int32_t> history;
  std::vector<int64_t> offsets;
  std::unique_ptr<ModelInstance> instance;
  std::unique_ptr<Communicator> communicator = make_self_communicator();
  std::unique_ptr<Loader> loader;
  const StepBatch* batch;
  std::unique_ptr<TrainingStep> step;
  int64_t count = 0;
};

void add(Suite& suite, const std::string& name, const std::vector<int64_t>& lengths, int64_t items, int64_t max_length,
         int64_t width) {
  double rows = 0, squares = 0;
  for (int64_t length : lengths) {
    rows += static_cast<double>(length);
    squares += static_cast<double>(length * length);
  }
  const double d = static_cast<double>(width);
  suite.add({.name = "step/" + name + "/d" + std::to_string(width),
             .flops = 144 * d * d * rows + 24 * d * squares + 6 * static_cast<double>(items) * d * 0.2 * rows,
             .prepare = [=] {
               auto state = std::make_shared<StepState>(lengths, items, max_length, width);
               return [state] {
                 state->step->run(*state->batch, state->count++);
                 state->step->result(TrainingStep::Until::kAllIsDone);
               };
             }});
}

void list_benches(Suite& suite) {
  for (int64_t width : {64, 128}) {
    add(suite, "ml-1m", long_lengths(), 3416, 200, width);
    add(suite, "beauty", short_lengths(), 12101, 50, width);
  }
}

const Registration kRegistration(list_benches);

}  // namespace
}  // namespace itemloom::bench
