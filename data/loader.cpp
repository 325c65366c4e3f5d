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

void plan_epoch(const std::vector<Window>& windows, const LoaderOptions& options, int64_t epoch, EpochPlan& plan) {
  const auto count = static_cast<int64_t>(windows.size());
  const uint64_t key = mix64(options.seed ^ hash_name("order"));
  plan.order.resize(windows.size());
  std::iota(plan.order.begin(), plan.order.end(), 0);
  for (int64_t place = count - 1; place > 0; --place) {
    const PhiloxBlock draw = philox({static_cast<uint32_t>(place), static_cast<uint32_t>(epoch), 0, 0},
                                    static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
    const uint64_t bits = uint64_t{draw[0]} << 32 | draw[1];
    std::swap(plan.order[static_cast<size_t>(place)], plan.order[bits % static_cast<uint64_t>(place + 1)]);
  }
  std::vector<int64_t>& begins = plan.batch_begins;
  begins.clear();
  int64_t rows = 0;
  for (int64_t place = 0; place < count; ++place) {
    const int64_t length = windows[static_cast<size_t>(plan.order[static_cast<size_t>(place)])].length;
    const bool full = options.batch_tokens > 0
                          ? rows + length > options.batch_tokens
                          : place - (begins.empty() ? 0 : begins.back()) >= options.batch_sequences;
    if (begins.empty() || full) {
      begins.push_back(place);
      rows = 0;
    }
    rows += length;
  }
  begins.push_back(count);
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
  // A shard gets its next sample when it has the fewest rows.
  const int64_t shard_rows = std::min(rows, rows / options_.shards + longest);
  const int64_t piece_rows = std::min(shard_rows, std::max(options_.piece_tokens, longest));
  // Every piece but the last of a shard is at least half full, or holds one sample.
  const int64_t pieces =
      options_.local_shards * std::min(samples, 2 * block_count(shard_rows, options_.piece_tokens) + 1);
  samples_.reserve(static_cast<size_t>(samples));
  sample_shards_.reserve(static_cast<size_t>(samples));
  shard_rows_.reserve(static_cast<size_t>(options_.shards));
  for (StepBatch& buffer : buffers_) {
    buffer.shard_ends.reserve(static_cast<size_t>(options_.local_shards));
    buffer.pieces.resize(static_cast<size_t>(pieces));
    for (PackedBatch& piece : buffer.pieces) piece.reserve(piece_rows, std::min(piece_rows, samples));
  }
}

const EpochPlan& Loader::plan_of(int64_t epoch) {
  if (epoch != planned_epoch_) plan_epoch(windows_, options_, epoch, plan_);
  planned_epoch_ = epoch;
  return plan_;
}

int64_t Loader::batches(int64_t epoch) {
  std::lock_guard<std::mutex> lock(plan_mutex_);
  return plan_of(epoch).batches();
}

// The batch's samples, longest first, of equals the first drawn first.
void Loader::choose_samples(const EpochPlan& plan, int64_t batch) {
  samples_.clear();
  const int64_t end = plan.batch_begins[static_cast<size_t>(batch) + 1];
  for (int64_t place = plan.batch_begins[static_cast<size_t>(batch)]; place < end; ++place) {
    const int64_t window = plan.order[static_cast<size_t>(place)];
    samples_.push_back({.window = window,
                        .number = static_cast<uint32_t>(samples_.size()),
                        .length = windows_[static_cast<size_t>(window)].length});
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
      if (piece) step.masked += piece->masked();
      if (pieces == step.pieces.size()) step.pieces.emplace_back();
      piece = &step.pieces[pieces++];
      piece->clear();
    }
    const Window& window = windows_[static_cast<size_t>(sample.window)];
    masking_.append(*piece, items_.slice(window.begin, window.length), sample.window, step.epoch, sample.number,
                    options_.max_length);
  }
  if (piece) step.masked += piece->masked();
  step.shard_ends.push_back(pieces);
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
