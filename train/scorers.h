// What ranks the catalogue: the model, and the two reference lines that any model has to beat.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/view.h"
#include "data/batch.h"
#include "data/pair_counts.h"
#include "kernels/gemm.h"
#include "layers/models/bert4rec.h"
#include "train/score_tile.h"

namespace itemloom {

// Items of a sequence so far, oldest first; may be empty.
using History = Vector<const int32_t>;

// Scores every item of the catalogue as the next one of a history. A row depends on its history alone: the same bits
// whatever other histories are asked for with it, and for any number of threads.
class Scorer {
 public:
  // On the host.
  Scorer() : Scorer(host_) {}
  explicit Scorer(Device& device) : device_(device), tile_(device) {}
  virtual ~Scorer() = default;
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;

  virtual int64_t items() const = 0;
  // scores (histories, V) in the memory of the device, overwritten; higher is better.
  virtual void score(std::span<const History> histories, Matrix<float> scores) = 0;

  // In whose memory the scores are.
  Device& device() { return device_; }
  // Memory of the device for those who look at scores of the whole catalogue; the scorer itself does not use it.
  ScoreTile& tile() { return tile_; }

 private:
  Device host_;
  Device& device_;
  ScoreTile tile_;
};

// Bytes that a ModelScorer and its tile take of the device.
struct ScorerMemory {
  int64_t tile = 0;    // scores and what lies beside them
  int64_t hidden = 0;  // what the head says of a tile's histories
  int64_t layers = 0;  // activations of a forward pass

  int64_t total() const { return tile + hidden + layers; }
};

// The model's logits at a [MASK] after the last max_length - 1 items of the history. The layers compute in the device's
// precision, the logits are products of floats.
class ModelScorer : public Scorer {
 public:
  // The model must outlive the scorer; its parameters may change between calls.
  ModelScorer(Device& device, const Bert4Rec& model, int64_t max_length);

  int64_t items() const override { return model_.items(); }
  void score(std::span<const History> histories, Matrix<float> scores) override;

  // The head's output for each history, (histories, C): what score() multiplies with the output table. In the memory of
  // the device, valid until the next call.
  Matrix<const float> encode(std::span<const History> histories);

  // Takes so much before anything is scored.
  void reserve(const ScorerMemory& memory);
  // scores = encoded histories times the output table.
  static Gemm<float> product(Matrix<const float> encoded, const Bert4Rec& model, Matrix<float> scores);
  // The greatest number of rows in one of its forward passes over so many histories.
  static int64_t most_rows(int64_t histories, int64_t max_length);

 private:
  const Bert4Rec& model_;
  int64_t max_length_;
  Arena arena_;
  PackedBatch batch_;
  DeviceBlock hidden_;
};

// How often an item was bought, whoever asks.
class PopularityScorer : public Scorer {
 public:
  // counts (V) of training interactions.
  explicit PopularityScorer(Vector<const int64_t> counts);

  int64_t items() const override { return static_cast<int64_t>(scores_.size()); }
  void score(std::span<const History> histories, Matrix<float> scores) override;

 private:
  std::vector<float> scores_;
};

// Item-kNN on co-occurrence (Deshpande and Karypis, TOIS 2004, cosine): the similarity of two items is
// c_ij / sqrt(c_i c_j), each item keeps its most similar `neighbors` (of equals the lower ids), and an item's score is
// the sum, over the distinct items h of the history that have it among their neighbours, of its similarity to h.
class ItemKnnScorer : public Scorer {
 public:
  explicit ItemKnnScorer(const PairCounts& counts, int64_t neighbors = 100);

  int64_t items() const override { return static_cast<int64_t>(offsets_.size()) - 1; }
  void score(std::span<const History> histories, Matrix<float> scores) override;

 private:
  std::vector<int64_t> offsets_;  // (V + 1)
  std::vector<int32_t> neighbors_;
  std::vector<float> similarities_;
};

}  // namespace itemloom
