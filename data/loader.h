// Training batches: order, cutting, masking and one prefetch thread. Everything is a function of (seed, epoch, batch),
// so a run that stops and resumes, or one on other threads, sees the same batches.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/permutation.h"
#include "core/view.h"
#include "data/batch.h"
#include "data/config.h"

namespace itemloom {

// A piece of a sequence that is one training sample: items [begin, begin + length) of the dataset's item list.
struct Window {
  int64_t begin;
  int32_t length;
};

// Training ranges [begins[s], ends[s]) cut into windows of at most max_length items: the last ones of each sequence, or
// windows that slide back from its end by `window_stride` until its start is covered. Empty ranges give none. A window
// is computed when it is asked for: where each range has one, nothing is stored, else a number a sequence.
class Windows {
 public:
  // The ranges must outlive the windows.
  Windows(Vector<const int64_t> begins, Vector<const int64_t> ends, const DataConfig& config);

  int64_t size() const { return size_; }
  // Sequence by sequence, and in each of them from its end to its start.
  Window operator[](int64_t index) const;
  // Of the longest window.
  int64_t longest() const;
  // How many windows there are of each length from 0 to max_length.
  std::vector<int64_t> length_counts() const;

 private:
  int64_t count_of(int64_t sequence) const;

  Vector<const int64_t> begins_, ends_;
  int64_t max_length_;
  int64_t stride_;  // 0: one window a sequence
  int64_t size_ = 0;
  std::vector<int64_t> firsts_;  // each sequence's first window, unless it is the sequence's own number
};

struct LoaderOptions {
  int64_t max_length;
  int64_t batch_sequences;  // samples a batch ...
  int64_t batch_tokens;     // ... or, when above zero, as many samples as fit into this many rows (at least one)
  int64_t piece_tokens;     // a batch is worked through in pieces of about this many rows at most
  uint64_t seed;
  int64_t bucket = 0;  // above zero: every piece is filled up (PackedBatch::fill_up)
  // A batch is dealt out to `shards` shards of about as many rows each, longest samples first, which of them depends on
  // the batch alone; this loader fills the shards [first_shard, first_shard + local_shards). A shard may be empty.
  int shards = 1;
  int first_shard = 0;
  int local_shards = 1;
};

// The most that a batch can hold, whichever samples form it.
struct BatchBounds {
  int64_t samples, rows;
  int64_t shard_rows, piece_rows;  // of one shard, and of one piece of it, filled up
  int64_t pieces;                  // of the local shards

  // The sequences that a piece of so many rows is filled up to.
  int64_t piece_sequences(int64_t piece_rows, const LoaderOptions& options) const;
};
BatchBounds batch_bounds(const Windows& windows, const LoaderOptions& options);

// An epoch's samples: windows in the order of a permutation named by (seed, epoch), cut into batches.
class EpochPlan {
 public:
  EpochPlan(const Windows& windows, const LoaderOptions& options, int64_t epoch);

  int64_t epoch() const { return epoch_; }
  int64_t batches() const;
  // The places of a batch, and the window at a place.
  FlatRange places(int64_t batch) const;
  int64_t window_at(int64_t place) const { return order_[place]; }

 private:
  int64_t epoch_;
  Permutation order_;
  int64_t windows_;
  int64_t batch_sequences_;
  std::vector<int64_t>
      batch_begins_;  // where batches are counted in rows, with the number of windows as the last entry
};

// One optimizer step's samples, in pieces that are worked through one after the other (their gradients add up). Samples
// are ordered by length, longest first: which samples form a batch is a draw of the epoch's permutation alone, so this
// favours no length.
struct StepBatch {
  int64_t epoch = -1;
  int64_t batch = -1;
  std::vector<PackedBatch> pieces;  // those in use come first
  std::vector<size_t> shard_ends;   // local shard s has the pieces [shard_ends[s - 1], shard_ends[s])
  int64_t sequences = 0, rows = 0;  // of the whole batch
  int64_t masked = 0;               // of the local shards
};

class Loader {
 public:
  // `items` is the dataset's item list and must outlive the loader.
  Loader(Vector<const int32_t> items, Windows windows, Masking masking, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t windows() const { return windows_.size(); }
  // Batches in an epoch; with batches by tokens it varies between epochs.
  int64_t batches(int64_t epoch);
  // The batch, valid until the next call; the one after it is prepared meanwhile.
  const StepBatch& load(int64_t epoch, int64_t batch);

 private:
  void reserve();
  const EpochPlan& plan_of(int64_t epoch);
  void fill(StepBatch& step, int64_t epoch, int64_t batch);
  void choose_samples(const EpochPlan& plan, int64_t batch);
  void deal_samples();
  void fill_shard(StepBatch& step, int shard);
  void finish_piece(StepBatch& step, PackedBatch& piece);
  void prefetch_loop();

  Vector<const int32_t> items_;
  Windows windows_;
  Masking masking_;
  LoaderOptions options_;
  BatchBounds bounds_{};

  // The plan of one epoch, guarded by plan_mutex_.
  std::mutex plan_mutex_;
  std::optional<EpochPlan> plan_;
  struct Sample {
    int64_t window;
    uint32_t number;  // in the step
    int32_t length;
  };
  std::vector<Sample> samples_;                      // of the batch, longest first
  std::vector<std::pair<int64_t, int>> shard_rows_;  // a heap: rows dealt to each shard so far
  std::vector<int> sample_shards_;                   // of each sample

  // Two buffers: one is read by the trainer while the thread fills the other.
  StepBatch buffers_[2];
  int current_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, stop_ = false;
  int64_t wanted_epoch_ = 0, wanted_batch_ = 0;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace itemloom
