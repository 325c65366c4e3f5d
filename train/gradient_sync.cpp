#include "train/gradient_sync.h"

#include <algorithm>
#include <utility>

namespace itemloom {
namespace {

// Small enough that the first bucket is on its way early, large enough that a message is worth its latency.
constexpr int64_t kBucketsPerBuffer = 8;
constexpr int64_t kLargestBucket = int64_t{1} << 20;  // floats, 4 MB

std::vector<FlatRange> cut_into_buckets(int64_t floats, int ranks) {
  const int64_t blocks = block_count(floats, kShareBlock);
  const int64_t wanted = block_count(blocks, kBucketsPerBuffer);
  // A block a rank at least, so that all of them take part in the sum.
  const int64_t least = std::min<int64_t>(ranks, blocks);
  const int64_t size = std::clamp(wanted, least, std::max(least, kLargestBucket / kShareBlock));
  std::vector<FlatRange> buckets;
  for (int64_t begin = 0; begin < floats; begin += size * kShareBlock) {
    buckets.push_back({begin, std::min(floats, begin + size * kShareBlock)});
  }
  std::reverse(buckets.begin(), buckets.end());
  return buckets;
}

bool overlap(const ParameterInfo& parameter, FlatRange bucket) {
  return parameter.offset < bucket.end && parameter.offset + parameter.size > bucket.begin;
}

}  // namespace

std::vector<FlatRange> bucket_shares(int64_t floats, int rank, int ranks) {
  std::vector<FlatRange> shares;
  for (const FlatRange& bucket : cut_into_buckets(floats, ranks)) {
    const FlatRange share = share_of(bucket, rank, ranks);
    if (share.size() > 0) shares.push_back(share);
  }
  std::reverse(shares.begin(), shares.end());
  return shares;
}

GradientSync::GradientSync(Communicator& communicator, ExchangeBuffer& gradients, const ParameterStore& store,
                           bool sharded)
    : communicator_(communicator),
      gradients_(gradients),
      store_(store),
      sharded_(sharded),
      buckets_(cut_into_buckets(store.size(), communicator.size())) {
  for (const FlatRange& bucket : buckets_) {
    parameters_in_.push_back(static_cast<int>(std::count_if(store.infos().begin(), store.infos().end(),
                                                            [&](const auto& one) { return overlap(one, bucket); })));
  }
  missing_ = parameters_in_;
  if (communicator.size() > 1) thread_ = std::thread([this] { reduce_loop(); });
}

GradientSync::~GradientSync() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    // This rank unwinds in the middle of a step: its thread must not wait for ranks that wait for this one.
    if (ready_ > reduced_) communicator_.leave();
  }
  changed_.notify_all();
  thread_.join();
}

void GradientSync::parameter_ready(int parameter) {
  if (communicator_.size() == 1) return;
  const ParameterInfo& info = store_.infos()[static_cast<size_t>(parameter)];
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    if (overlap(info, buckets_[bucket])) --missing_[bucket];
  }
  const size_t before = ready_;
  while (ready_ < buckets_.size() && missing_[ready_] == 0) ++ready_;
  if (ready_ == before) return;
  gradients_.begin_after_device();
  changed_.notify_all();
}

void GradientSync::finish() {
  if (communicator_.size() == 1) return;
  std::unique_lock<std::mutex> lock(mutex_);
  if (ready_ < buckets_.size()) gradients_.begin_after_device();
  ready_ = buckets_.size();
  changed_.notify_all();
  changed_.wait(lock, [this] { return reduced_ == buckets_.size() || error_; });
  if (error_) std::rethrow_exception(error_);
  gradients_.device_continues_after();
  ready_ = reduced_ = 0;
  missing_ = parameters_in_;
}

void GradientSync::reduce_loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || (reduced_ < ready_ && !error_); });
    if (stop_) return;
    const FlatRange bucket = buckets_[reduced_];
    lock.unlock();
    std::exception_ptr error;
    try {
      if (sharded_) {
        gradients_.reduce_scatter_sum(bucket);
      } else {
        gradients_.all_reduce_sum(bucket);
      }
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    ++reduced_;
    changed_.notify_all();
  }
}

}  // namespace itemloom
