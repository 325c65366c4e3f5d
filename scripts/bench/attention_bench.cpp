// Attention of a training step's batches, d = 64 and 128 in heads of 32 and 64. FLOPs are those of the pairs that
// matter: 4 D a pair forward, 10 D backward, where the scores are computed a second time.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "scripts/bench/bench.h"

namespace itemloom::bench {
namespace {

struct Batch {
  std::string name;
  std::vector<int64_t> lengths;
  int64_t heads = 2, head_size = 32;
  bool causal = false;
  float dropout = 0;
  int64_t query_every = 1;  // only every so many rows are queries
};

struct Attention {
  explicit Attention(const Batch& batch) : batch(batch) {
    for (int64_t length : batch.lengths) offsets.push_back(offsets.back() + length);
    rows = offsets.back();
    hidden = batch.heads * batch.head_size;
    for (int64_t row = 0; row < rows; ++row) row_ids.push_back(static_cast<uint32_t>(row));
    for (int64_t row = 0; row < rows; row += batch.query_every) query_rows.push_back(row);
    outputs = static_cast<int64_t>(query_rows.size());
    qkv = random_floats(arena, rows * 3 * hidden, 1);
    dqkv = random_floats(arena, rows * 3 * hidden, 2);
    y = random_floats(arena, outputs * hidden, 3);
    dy = random_floats(arena, outputs * hidden, 4);
    log_sum_exp = random_floats(arena, outputs * batch.heads, 5);
  }
  Vector<const int64_t> queries() const {
    return batch.query_every == 1 ? Vector<const int64_t>::none() : Vector<const int64_t>(query_rows.data(), outputs);
  }
  void forward() {
    run(device, AttentionForward<float>{.qkv = Matrix<const float>(qkv, rows, 3 * hidden),
                                        .sequence_offsets = Vector<const int64_t>(offsets.data(), offsets.size()),
                                        .query_rows = queries(),
                                        .row_ids = Vector<const uint32_t>(row_ids.data(), rows),
                                        .heads = batch.heads,
                                        .causal = batch.causal,
                                        .dropout = batch.dropout,
                                        .key = {1, 2, 3},
                                        .y = Matrix<float>(y, outputs, hidden),
                                        .log_sum_exp = Matrix<float>(log_sum_exp, batch.heads, outputs)});
  }
  void backward() {
    run(device, AttentionBackward<float>{.qkv = Matrix<const float>(qkv, rows, 3 * hidden),
                                         .sequence_offsets = Vector<const int64_t>(offsets.data(), offsets.size()),
                                         .query_rows = queries(),
                                         .row_ids = Vector<const uint32_t>(row_ids.data(), rows),
                                         .heads = batch.heads,
                                         .causal = batch.causal,
                                         .dropout = batch.dropout,
                                         .key = {1, 2, 3},
                                         .y = Matrix<const float>(y, outputs, hidden),
                                         .log_sum_exp = Matrix<const float>(log_sum_exp, batch.heads, outputs),
                                         .dy = Matrix<const float>(dy, outputs, hidden),
                                         .dqkv = Matrix<float>(dqkv, rows, 3 * hidden)});
  }

  Batch batch;
  int64_t rows, hidden, outputs;
  std::vector<int64_t> offsets{0}, query_rows;
  std::vector<uint32_t> row_ids;
  float *qkv, *dqkv, *y, *dy, *log_sum_exp;
  Arena arena;
  Device device;
};

double pairs(const Batch& batch) {
  double count = 0;
  for (int64_t length : batch.lengths) {
    const auto n = static_cast<double>(length);
    count += (batch.causal ? n * (n + 1) / 2 : n * n) / static_cast<double>(batch.query_every);
  }
  return count;
}

void add(Suite& suite, const Batch& batch) {
  const double work = pairs(batch) * static_cast<double>(batch.heads * batch.head_size);
  suite.add({.name = "attention/forward/" + batch.name, .flops = 4 * work, .prepare = [=]() -> std::function<void()> {
               auto attention = std::make_shared<Attention>(batch);
               return [attention] { attention->forward(); };
             }});
  suite.add({.name = "attention/backward/" + batch.name, .flops = 10 * work, .prepare = [=]() -> std::function<void()> {
               auto attention = std::make_shared<Attention>(batch);
               attention->forward();
               return [attention] { attention->backward(); };
             }});
}

// `count` lengths as if from an exponential distribution cut off at `longest`, in a fixed mixed order.
std::vector<int64_t> spread_lengths(int64_t count, double scale, int64_t longest) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < count; ++i) {
    const double share = (static_cast<double>(i * 97 % count) + 0.5) / static_cast<double>(count);
    lengths.push_back(std::clamp<int64_t>(std::llround(-scale * std::log(1 - share)), 1, longest));
  }
  return lengths;
}

void list_benches(Suite& suite) {
  for (int64_t length : {7, 50, 108, 165, 200, 1000}) {
    const std::vector<int64_t> lengths(static_cast<size_t>(std::max<int64_t>(2, 3200 / length)), length);
    add(suite, {.name = std::to_string(length) + "x32", .lengths = lengths});
  }
  const std::vector<int64_t> lengths(16, 200);
  add(suite, {.name = "200x16", .lengths = lengths, .heads = 4, .head_size = 16});
  add(suite, {.name = "200x64", .lengths = lengths, .head_size = 64});
  add(suite, {.name = "200x32_dropout", .lengths = lengths, .dropout = 0.1f});
  add(suite, {.name = "200x32_causal", .lengths = lengths, .causal = true});
  // Mean lengths and mean squares are those of ML-1M and of Amazon Beauty.
  const std::vector<int64_t> long_batch = spread_lengths(256, 145, 200), short_batch = spread_lengths(256, 6.7, 50);
  add(suite, {.name = "long_batch", .lengths = long_batch, .dropout = 0.1f});
  add(suite, {.name = "long_batch_masked_rows", .lengths = long_batch, .dropout = 0.1f, .query_every = 5});
  add(suite, {.name = "short_batch", .lengths = short_batch, .dropout = 0.1f});
}

const Registration kRegistration(list_benches);

}  // namespace
}  // namespace itemloom::bench
