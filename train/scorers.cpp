#include "train/scorers.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"
#include "core/tape.h"
#include "kernels/elementwise.h"
#include "train/trainer.h"

namespace itemloom {
namespace {

// Rows of one forward pass: few enough for activations to stay in the cache.
constexpr int64_t kPieceRows = 4096;

// Items whose neighbours are found in one parallel task.
constexpr int64_t kItemsPerTask = 64;

void check_shape(const Scorer& scorer, std::span<const History> histories, Matrix<float> scores) {
  CHECK(scores.rows() == static_cast<int64_t>(histories.size()) && scores.columns() == scorer.items(), "scores (",
        scores.rows(), ", ", scores.columns(), ") for ", histories.size(), " histories and ", scorer.items(), " items");
}

// Keeps what is there when it is enough.
void make_room(Device& device, DeviceBlock& block, int64_t bytes) {
  if (block.bytes() < bytes) block = device.allocate(bytes);
}

struct Neighbor {
  double similarity;
  int32_t item;
};

bool closer(const Neighbor& a, const Neighbor& b) {
  return a.similarity != b.similarity ? a.similarity > b.similarity : a.item < b.item;
}

}  // namespace

ModelScorer::ModelScorer(Device& device, const Bert4Rec& model, int64_t max_length)
    : Scorer(device), model_(model), max_length_(max_length), arena_(device.kind()) {}

int64_t ModelScorer::most_rows(int64_t histories, int64_t max_length) {
  return std::min(histories * max_length, std::max(kPieceRows, max_length));
}

void ModelScorer::reserve(const ScorerMemory& memory) {
  tile().reserve(memory.tile);
  make_room(device(), hidden_, memory.hidden);
  arena_.reserve(memory.layers);
}

Matrix<const float> ModelScorer::encode(std::span<const History> histories) {
  const int64_t rows = static_cast<int64_t>(histories.size()), size = model_.output_table().columns();
  make_room(device(), hidden_, rows * size * static_cast<int64_t>(sizeof(float)));
  const Matrix<float> hidden(hidden_.as<float>(rows * size).data(), rows, size);
  float* target = hidden.data();
  for (size_t next = 0; next < histories.size();) {
    batch_.clear();
    while (next < histories.size()) {
      const int64_t length = std::min(histories[next].size(), max_length_ - 1) + 1;
      if (batch_.rows() > 0 && batch_.rows() + length > kPieceRows) break;
      batch_.append_history(histories[next++], model_.mask_id(), max_length_);
    }
    arena_.reset();
    Tape tape(device(), arena_, Mode::kInference);
    const Tensor encoded = model_.encode(tape, model_input(tape, batch_));
    if (encoded.type() == NumberType::kBf16) {
      run(device(), Convert<Bf16, float>{.x = encoded.flat<Bf16>(), .y = Vector<float>(target, encoded.size())});
    } else {
      device().copy_within(encoded.flat().data(), target, encoded.size());
    }
    target += encoded.size();
  }
  return hidden;
}

void ModelScorer::score(std::span<const History> histories, Matrix<float> scores) {
  check_shape(*this, histories, scores);
  run(device(), product(encode(histories), model_, scores));
}

Gemm<float> ModelScorer::product(Matrix<const float> encoded, const Bert4Rec& model, Matrix<float> scores) {
  return {.a = encoded,
          .transpose_a = false,
          .b = model.output_table(),
          .transpose_b = true,
          .bias = model.output_bias(),
          .c = scores,
          .accumulate = false};
}

PopularityScorer::PopularityScorer(Vector<const int64_t> counts) : scores_(counts.begin(), counts.end()) {}

void PopularityScorer::score(std::span<const History> histories, Matrix<float> scores) {
  check_shape(*this, histories, scores);
  parallel_for(scores.rows(), [&](int64_t row) { std::copy(scores_.begin(), scores_.end(), scores.row(row)); });
}

ItemKnnScorer::ItemKnnScorer(const PairCounts& counts, int64_t neighbors) : offsets_(1, 0) {
  const int64_t items = counts.item_count();
  std::vector<std::vector<Neighbor>> found(static_cast<size_t>(items));
  struct Row {
    std::vector<int32_t> counts, touched;
  };
  std::vector<Row> rows(static_cast<size_t>(thread_count()));
  parallel_for_with_thread(block_count(items, kItemsPerTask), [&](int64_t task, int thread) {
    Row& row = rows[static_cast<size_t>(thread)];
    row.counts.resize(static_cast<size_t>(items));
    for (int64_t item = task * kItemsPerTask; item < std::min(items, (task + 1) * kItemsPerTask); ++item) {
      row.touched.clear();
      counts.add_row(item, Vector<int32_t>(row.counts.data(), items), row.touched);
      std::vector<Neighbor>& list = found[static_cast<size_t>(item)];
      list.reserve(row.touched.size());
      for (int32_t other : row.touched) {
        const double together = std::exchange(row.counts[static_cast<size_t>(other)], 0);
        const double apart = static_cast<double>(counts.units_of(item)) * static_cast<double>(counts.units_of(other));
        if (other != item) list.push_back({together / std::sqrt(apart), other});
      }
      if (static_cast<int64_t>(list.size()) > neighbors) {
        std::nth_element(list.begin(), list.begin() + neighbors, list.end(), closer);
        list.resize(static_cast<size_t>(neighbors));
        list.shrink_to_fit();
      }
    }
  });
  for (const std::vector<Neighbor>& list : found) {
    for (const Neighbor& neighbor : list) {
      neighbors_.push_back(neighbor.item);
      similarities_.push_back(static_cast<float>(neighbor.similarity));
    }
    offsets_.push_back(static_cast<int64_t>(neighbors_.size()));
  }
}

void ItemKnnScorer::score(std::span<const History> histories, Matrix<float> scores) {
  check_shape(*this, histories, scores);
  std::vector<std::vector<int32_t>> sorted(static_cast<size_t>(thread_count()));
  parallel_for_with_thread(scores.rows(), [&](int64_t row, int thread) {
    const History history = histories[static_cast<size_t>(row)];
    std::vector<int32_t>& items = sorted[static_cast<size_t>(thread)];
    items.assign(history.begin(), history.end());
    std::sort(items.begin(), items.end());
    items.erase(std::unique(items.begin(), items.end()), items.end());
    float* sums = scores.row(row);
    std::fill(sums, sums + scores.columns(), 0.0f);
    for (int32_t item : items) {
      const size_t begin = static_cast<size_t>(offsets_[static_cast<size_t>(item)]);
      const size_t end = static_cast<size_t>(offsets_[static_cast<size_t>(item) + 1]);
      for (size_t place = begin; place < end; ++place) sums[neighbors_[place]] += similarities_[place];
    }
  });
}

}  // namespace itemloom
