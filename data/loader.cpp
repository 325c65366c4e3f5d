#include "data/loader.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace itemloom {

Windows::Windows(Vector<const int64_t> begins, Vector<const int64_t> ends, const DataConfig& config)
    : begins_(begins),
      ends_(ends),
      max_length_(config.max_length),
      stride_(config.windows == "last"   ? 0
              : config.window_stride > 0 ? config.window_stride
                                         : config.max_length) {
  bool one_each = true;
  for (int64_t sequence = 0; sequence < begins_.size(); ++sequence) {
    const int64_t count = count_of(sequence);
    size_ += count;
    one_each = one_each && count == 1;
  }
  if (one_each) return;
  firsts_.reserve(static_cast<size_t>(begins_.size()));
  int64_t first = 0;
  for (int64_t sequence = 0; sequence < begins_.size(); ++sequence) {
    firsts_.push_back(first);
    first += count_of(sequence);
  }
}

int64_t Windows::count_of(int64_t sequence) const {
  const int64_t length = ends_[sequence] - begins_[sequence];
  if (length == 0) return 0;
  return stride_ == 0 || length <= max_length_ ? 1 : 1 + block_count(length - max_length_, stride_);
}

Window Windows::operator[](int64_t index) const {
  int64_t sequence = index, place = 0;
  if (!firsts_.empty()) {
    // The last sequence that begins there or before: those without windows begin where the next one does.
    sequence = std::upper_bound(firsts_.begin(), firsts_.end(), index) - firsts_.begin() - 1;
    place = index - firsts_[static_cast<size_t>(sequence)];
  }
  const int64_t end = ends_[sequence] - place * stride_;
  const int64_t length = std::min(end - begins_[sequence], max_length_);
  return {end - length, static_cast<int32_t>(length)};
}

int64_t Windows::longest() const {
  int64_t longest = 0;
  for (int64_t sequence = 0; sequence < begins_.size(); ++sequence) {
    longest = std::max(longest, std::min(ends_[sequence] - begins_[sequence], max_length_));
  }
  return longest;
}

std::vector<int64_t> Windows::length_counts() const {
  std::vector<int64_t> counts(static_cast<size_t>(max_length_) + 1);
  for (int64_t index = 0; index < size_; ++index) ++counts[static_cast<size_t>((*this)[index].length)];
  return counts;
}

EpochPlan::EpochPlan(const Windows& windows, const LoaderOptions& options, int64_t epoch)
    : epoch_(epoch),
      order_(windows.size(), mix64(options.seed ^ hash_name("order")), static_cast<uint32_t>(epoch)),
      windows_(windows.size()),
      batch_sequences_(options.batch_sequences) {
  if (options.batch_tokens == 0) return;
  int64_t rows = 0;
  for (int64_t place = 0; place < windows_; ++place) {
    const int64_t length = windows[order_[place]].length;
    if (batch_begins_.empty() || rows + length > options.batch_tokens) {
      batch_begins_.push_back(place);
      rows = 0;
    }
    rows += length;
  }
  batch_begins_.push_back(windows_);
}

int64_t EpochPlan::batches() const {
  return batch_begins_.empty() ? block_count(windows_, batch_sequences_)
                               : static_cast<int64_t>(batch_begins_.size()) - 1;
}

FlatRange EpochPlan::places(int64_t batch) const {
  if (batch_begins_.empty()) {
    return {batch * batch_sequences_, std::min((batch + 1) * batch_sequences_, windows_)};
  }
  return {batch_begins_[static_cast<size_t>(batch)], batch_begins_[static_cast<size_t>(batch) + 1]};
}

Loader::Loader(Vector<const int32_t> items, Windows windows, Masking masking, const LoaderOptions& options)
    : items_(items), windows_(std::move(windows)), masking_(masking), options_(options) {
  CHECK(windows_.size() > 0,
        "there is no training sequence: every one is empty after the split; look at data.filters "
        "and data.split");
  reserve();
  thread_ = std::thread([this] { prefetch_loop(); });
}

Loader::~Loader() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

BatchBounds batch_bounds(const Windows& windows, const LoaderOptions& options) {
  const std::vector<int64_t> counts = windows.length_counts();
  const int64_t longest = windows.longest();
  BatchBounds bounds{.samples = std::min(options.batch_sequences, windows.size()),
                     .rows = 0,
                     .shard_rows = 0,
                     .piece_rows = 0,
                     .pieces = 0};
  if (options.batch_tokens > 0) {
    bounds.samples = std::min(options.batch_tokens, windows.size());
    bounds.rows = std::max(options.batch_tokens, longest);
  } else {
    for (int64_t length = longest, left = bounds.samples; left > 0; --length) {
      const int64_t taken = std::min(left, counts[static_cast<size_t>(length)]);
      bounds.rows += taken * length;
      left -= taken;
    }
  }
  // A shard gets its next sample when it has the fewest rows.
  bounds.shard_rows = std::min(bounds.rows, bounds.rows / options.shards + longest);
  bounds.piece_rows = std::min(bounds.shard_rows, std::max(options.piece_tokens, longest));
  // Every piece but the last of a shard is at least half full, or holds one sample.
  bounds.pieces =
      options.local_shards * std::min(bounds.samples, 2 * block_count(bounds.shard_rows, options.piece_tokens) + 1);
  if (options.bucket > 0) {
    // With as many masked rows to append as there can be.
    bounds.piece_rows = filled_rows(bounds.piece_rows, 1, options.bucket);
  }
  return bounds;
}

// Each has a row at least, and those appended are full but for one.
int64_t BatchBounds::piece_sequences(int64_t piece_rows, const LoaderOptions& options) const {
  if (options.bucket == 0) return std::min(piece_rows, samples);
  const int64_t appended_rows = options.bucket + masked_bucket(options.bucket);
  return std::min(piece_rows, samples + block_count(appended_rows, options.max_length));
}

// Takes at once the memory of the largest batch that can come, so that no later step allocates.
void Loader::reserve() {
  bounds_ = batch_bounds(windows_, options_);
  samples_.reserve(static_cast<size_t>(bounds_.samples));
  sample_shards_.reserve(static_cast<size_t>(bounds_.samples));
  shard_rows_.reserve(static_cast<size_t>(options_.shards));
  for (StepBatch& buffer : buffers_) {
    buffer.shard_ends.reserve(static_cast<size_t>(options_.local_shards));
    buffer.pieces.resize(static_cast<size_t>(bounds_.pieces));
    for (PackedBatch& piece : buffer.pieces) {
      piece.reserve(bounds_.piece_rows, bounds_.piece_sequences(bounds_.piece_rows, options_));
    }
  }
}

const EpochPlan& Loader::plan_of(int64_t epoch) {
  if (!plan_ || epoch != plan_->epoch()) plan_.emplace(windows_, options_, epoch);
  return *plan_;
}

int64_t Loader::batches(int64_t epoch) {
  std::lock_guard<std::mutex> lock(plan_mutex_);
  return plan_of(epoch).batches();
}

// The batch's samples, longest first, of equals the first drawn first.
void Loader::choose_samples(const EpochPlan& plan, int64_t batch) {
  samples_.clear();
  const FlatRange places = plan.places(batch);
  for (int64_t place = places.begin; place < places.end; ++place) {
    const int64_t window = plan.window_at(place);
    samples_.push_back(
        {.window = window, .number = static_cast<uint32_t>(samples_.size()), .length = windows_[window].length});
  }
  std::sort(samples_.begin(), samples_.end(), [](const Sample& a, const Sample& b) {
    return a.length != b.length ? a.length > b.length : a.number < b.number;
  });
}

// Each sample to the shard that has the fewest rows, of equals the first one.
void Loader::deal_samples() {
  shard_rows_.clear();
  for (int shard = 0; shard < options_.shards; ++shard) shard_rows_.emplace_back(0, shard);
  sample_shards_.clear();
  for (const Sample& sample : samples_) {
    std::pop_heap(shard_rows_.begin(), shard_rows_.end(), std::greater<>());
    shard_rows_.back().first += sample.length;
    sample_shards_.push_back(shard_rows_.back().second);
    std::push_heap(shard_rows_.begin(), shard_rows_.end(), std::greater<>());
  }
}

void Loader::fill_shard(StepBatch& step, int shard) {
  size_t pieces = step.shard_ends.empty() ? 0 : step.shard_ends.back();
  PackedBatch* piece = nullptr;
  for (size_t place = 0; place < samples_.size(); ++place) {
    if (sample_shards_[place] != shard) continue;
    const Sample& sample = samples_[place];
    if (!piece || piece->rows() + sample.length > options_.piece_tokens) {
      if (piece) finish_piece(step, *piece);
      if (pieces == step.pieces.size()) step.pieces.emplace_back();
      piece = &step.pieces[pieces++];
      piece->clear();
    }
    const Window window = windows_[sample.window];
    masking_.append(*piece, items_.slice(window.begin, window.length), sample.window, step.epoch, sample.number,
                    options_.max_length);
  }
  if (piece) finish_piece(step, *piece);
  step.shard_ends.push_back(pieces);
}

void Loader::finish_piece(StepBatch& step, PackedBatch& piece) {
  step.masked += piece.masked();
  if (options_.bucket == 0) return;
  const int64_t rows = filled_rows(piece.rows(), piece.masked(), options_.bucket);
  piece.fill_up(options_.bucket, options_.max_length, bounds_.piece_sequences(rows, options_));
}

void Loader::fill(StepBatch& step, int64_t epoch, int64_t batch) {
  std::lock_guard<std::mutex> lock(plan_mutex_);
  const EpochPlan& plan = plan_of(epoch);
  CHECK(batch >= 0 && batch < plan.batches(), "epoch ", epoch, " has no batch ", batch);
  choose_samples(plan, batch);
  deal_samples();
  step.epoch = epoch;
  step.batch = batch;
  step.sequences = static_cast<int64_t>(samples_.size());
  step.rows = step.masked = 0;
  for (const Sample& sample : samples_) step.rows += sample.length;
  step.shard_ends.clear();
  for (int shard = 0; shard < options_.local_shards; ++shard) fill_shard(step, options_.first_shard + shard);
}

const StepBatch& Loader::load(int64_t epoch, int64_t batch) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return !wanted_; });
  StepBatch& prepared = buffers_[1 - current_];
  if (prepared.epoch != epoch || prepared.batch != batch) {
    error_ = nullptr;
    wanted_ = true;
    wanted_epoch_ = epoch;
    wanted_batch_ = batch;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !wanted_; });
  }
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  current_ = 1 - current_;
  if (batch + 1 < batches(epoch)) {
    wanted_ = true;
    wanted_epoch_ = epoch;
    wanted_batch_ = batch + 1;
    changed_.notify_all();
  }
  return buffers_[current_];
}

void Loader::prefetch_loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return wanted_ || stop_; });
    if (stop_) return;
    StepBatch& target = buffers_[1 - current_];
    const int64_t epoch = wanted_epoch_, batch = wanted_batch_;
    lock.unlock();
    std::exception_ptr error;
    try {
      fill(target, epoch, batch);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    if (error) target.epoch = -1;
    wanted_ = false;
    changed_.notify_all();
  }
}

}  // namespace itemloom
