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
#include "layers/models/bert4rec.h"

namespace itemloom {

// Items of a sequence so far, oldest first; may be empty.
using History = Vector<const int32_t>;

// Scores every item of the catalogue as the next one of a history. A row depends on its history alone: the same bits
// whatever other histories are asked for with it, and for any number of threads.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual int64_t items() const = 0;
  // In whose memory the scores are.
  virtual Device& device() { return host_; }
  // scores (histories, V), overwritten; higher is better.
  virtual void score(std::span<const History> histories, Matrix<float> scores) = 0;

 private:
  Device host_;
};

// The model's logits at a [MASK] after the last max_length - 1 items of the history. The layers compute in the device's
// precision, the logits are products of floats.
class ModelScorer : public Scorer {
 public:
  // The model must outlive the scorer; its parameters may change between calls.
  ModelScorer(Device& device, const Bert4Rec& model, int64_t max_length);

  int64_t items() const override { return model_.items(); }
  Device& device() override { return device_; }
  void score(std::span<const History> histories, Matrix<float> scores) override;

  // The head's output for each history, (histories, C): what score() multiplies with the output table. In the memory of
  // the device, valid until the next call.
  Matrix<const float> encode(std::span<const History> histories);

 private:
  Device& device_;
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
