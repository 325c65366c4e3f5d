#include "train/gradient_sync.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "kernels/elementwise.h"

namespace itemloom {
namespace {

// Small enough that the first bucket is on its way early, large enough that a message is worth its latency.
constexpr int64_t kBucketsPerBuffer = 8;
constexpr int64_t kLargestBucket = int64_t{1} << 20;  // floats, 4 MB
// The main thread may be waiting for an exchange that has failed, or for other ranks: this one asks in its place.
constexpr auto kAskForHealthEvery = std::chrono::milliseconds(100);

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

int64_t GradientSync::rounded_bytes(int64_t floats, int ranks) {
  int64_t largest = 0;
  for (const FlatRange& bucket : cut_into_buckets(floats, ranks)) largest = std::max(largest, bucket.size());
  return ranks > 1 ? largest * static_cast<int64_t>(sizeof(Bf16)) : 0;
}

GradientSync::GradientSync(Device& device, Communicator& communicator, ExchangeBuffer& gradients,
                           const ParameterStore& store, GradientExchange exchange)
    : device_(device),
      communicator_(communicator),
      gradients_(gradients),
      store_(store),
      exchange_(exchange),
      buckets_(cut_into_buckets(store.size(), communicator.size())) {
  for (const FlatRange& bucket : buckets_) {
    parameters_in_.push_back(static_cast<int>(std::count_if(store.infos().begin(), store.infos().end(),
                                                            [&](const auto& one) { return overlap(one, bucket); })));
  }
  missing_ = parameters_in_;
  if (exchange.rounded) rounded_ = device.allocate(rounded_bytes(store.size(), communicator.size()));
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

// What is read here is written by the calling thread alone.
bool GradientSync::completes_bucket(int parameter) const {
  if (communicator_.size() == 1 || ready_ == buckets_.size() || missing_[ready_] != 1) return false;
  return overlap(store_.infos()[static_cast<size_t>(parameter)], buckets_[ready_]);
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
    const bool has_work =
        changed_.wait_for(lock, kAskForHealthEvery, [this] { return stop_ || (reduced_ < ready_ && !error_); });
    if (stop_) return;
    const size_t bucket = reduced_;
    lock.unlock();
    std::exception_ptr error;
    try {
      if (has_work) reduce(buckets_[bucket]);
      gradients_.check_health();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error) error_ = error;
    if (has_work) ++reduced_;
    changed_.notify_all();
  }
}

void GradientSync::reduce(FlatRange bucket) {
  if (exchange_.rounded) return reduce_rounded(bucket);
  if (exchange_.sharded) return gradients_.reduce_scatter_sum(bucket);
  gradients_.all_reduce_sum(bucket);
}

// Where the ranks meet, so that the device goes on with backward beside it.
void GradientSync::reduce_rounded(FlatRange bucket) {
  const Vector<Bf16> rounded = rounded_.as<Bf16>(bucket.size());
  const Vector<float> gradients = store_.gradients();
  run(device_, Convert<float, Bf16>{
                   .x = gradients.slice(bucket.begin, bucket.size()), .y = rounded, .stream = gradients_.stream()});
  FlatRange summed = bucket;
  if (exchange_.sharded) {
    gradients_.reduce_scatter_rounded(rounded);
    summed = share_of(bucket, communicator_.rank(), communicator_.size());
  } else {
    gradients_.all_reduce_rounded(rounded);
  }
  run(device_, Convert<Bf16, float>{.x = rounded.slice(summed.begin - bucket.begin, summed.size()),
                                    .y = gradients.slice(summed.begin, summed.size()),
                                    .stream = gradients_.stream()});
}

}  // namespace itemloom
