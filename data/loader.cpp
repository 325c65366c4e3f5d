#include "data/loader.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace itemloom {

std::vector<Window> make_windows(Vector<const int64_t> begins, Vector<const int64_t> ends, const DataConfig& config) {
  std::vector<Window> windows;
  for (int64_t sequence = 0; sequence < begins.size(); ++sequence) {
    const int64_t begin = begins[sequence];
    int64_t end = ends[sequence];
    while (end > begin) {
      const int64_t length = std::min(end - begin, config.max_length);
      windows.push_back({end - length, static_cast<int32_t>(length)});
      if (config.windows == "last" || end - length == begin) break;
      end -= config.window_stride > 0 ? config.window_stride : config.max_length;
    }
  }
  return windows;
}

Loader::Loader(Vector<const int32_t> items, std::vector<Window> windows, Masking masking, const LoaderOptions& options)
    : items_(items), windows_(std::move(windows)), masking_(masking), options_(options) {
  CHECK(!windows_.empty(),
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

// Takes at once the memory of the largest batch that can come, so that no later step allocates.
void Loader::reserve() {
  std::vector<int64_t> lengths;
  for (const Window& window : windows_) lengths.push_back(window.length);
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  const int64_t longest = lengths.front();
  int64_t samples = std::min(options_.batch_sequences, windows());
  int64_t rows = std::accumulate(lengths.begin(), lengths.begin() + samples, int64_t{0});
  if (options_.batch_tokens > 0) {
    samples = std::min(options_.batch_tokens, windows());
    rows = std::max(options_.batch_tokens, longest);
  }
  if (options_.piece_tokens == 0) options_.piece_tokens = rows;
  const int64_t piece_rows = std::min(rows, std::max(options_.piece_tokens, longest));
  // Every piece but the last is at least half full, or holds one sample.
  const int64_t pieces = std::min(samples, 2 * block_count(rows, options_.piece_tokens) + 1);
  samples_.reserve(static_cast<size_t>(samples));
  for (StepBatch& buffer : buffers_) {
    buffer.pieces.resize(static_cast<size_t>(pieces));
    for (PackedBatch& piece : buffer.pieces) piece.reserve(piece_rows, std::min(piece_rows, samples));
  }
}

// Fisher-Yates with Philox draws named by (seed, epoch, place).
void Loader::plan(int64_t epoch) {
  if (epoch == planned_epoch_) return;
  const uint64_t key = mix64(options_.seed ^ hash_name("order"));
  order_.resize(windows_.size());
  std::iota(order_.begin(), order_.end(), 0);
  for (int64_t place = windows() - 1; place > 0; --place) {
    const PhiloxBlock draw = philox({static_cast<uint32_t>(place), static_cast<uint32_t>(epoch), 0, 0},
                                    static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
    const uint64_t bits = uint64_t{draw[0]} << 32 | draw[1];
    std::swap(order_[static_cast<size_t>(place)], order_[bits % static_cast<uint64_t>(place + 1)]);
  }
  batch_begins_.clear();
  int64_t rows = 0;
  for (int64_t place = 0; place < windows(); ++place) {
    const int64_t length = windows_[static_cast<size_t>(order_[static_cast<size_t>(place)])].length;
    const bool full = options_.batch_tokens > 0
                          ? rows + length > options_.batch_tokens
                          : place - (batch_begins_.empty() ? 0 : batch_begins_.back()) >= options_.batch_sequences;
    if (batch_begins_.empty() || full) {
      batch_begins_.push_back(place);
      rows = 0;
    }
    rows += length;
  }
  batch_begins_.push_back(windows());
  planned_epoch_ = epoch;
}

int64_t Loader::batches(int64_t epoch) {
  std::lock_guard<std::mutex> lock(plan_mutex_);
  plan(epoch);
  return static_cast<int64_t>(batch_begins_.size()) - 1;
}

void Loader::fill(StepBatch& step, int64_t epoch, int64_t batch) {
  std::lock_guard<std::mutex> lock(plan_mutex_);
  plan(epoch);
  CHECK(batch >= 0 && batch + 1 < static_cast<int64_t>(batch_begins_.size()), "epoch ", epoch, " has no batch ", batch);
  samples_.clear();
  for (int64_t place = batch_begins_[static_cast<size_t>(batch)]; place < batch_begins_[static_cast<size_t>(batch) + 1];
       ++place) {
    samples_.emplace_back(order_[static_cast<size_t>(place)], static_cast<uint32_t>(samples_.size()));
  }
  std::sort(samples_.begin(), samples_.end(), [this](const auto& a, const auto& b) {
    const int32_t length_a = windows_[static_cast<size_t>(a.first)].length;
    const int32_t length_b = windows_[static_cast<size_t>(b.first)].length;
    return length_a != length_b ? length_a > length_b : a.second < b.second;
  });
  step.epoch = epoch;
  step.batch = batch;
  step.piece_count = 0;
  step.sequences = static_cast<int64_t>(samples_.size());
  step.rows = step.masked = 0;
  PackedBatch* piece = nullptr;
  for (const auto& [index, sample] : samples_) {
    const Window& window = windows_[static_cast<size_t>(index)];
    if (!piece || piece->rows() + window.length > options_.piece_tokens) {
      if (piece) step.masked += piece->masked();
      if (step.piece_count == step.pieces.size()) step.pieces.emplace_back();
      piece = &step.pieces[step.piece_count++];
      piece->clear();
    }
    masking_.append(*piece, items_.slice(window.begin, window.length), index, epoch, sample, options_.max_length);
    step.rows += window.length;
  }
  step.masked += piece->masked();
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
  if (batch + 1 < static_cast<int64_t>(batch_begins_.size()) - 1) {
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
