// Gradients of all ranks become one: in buckets, while backward still runs.
//
// The flat gradient buffer is cut into buckets from its end to its beginning, which is about the order in which
// backward finishes them (parameters lie in the order of their first use, the output's table comes last). A bucket
// whose parameters are ready is reduced by a thread of its own, strictly one after the other, so that all ranks reduce
// the same bucket at the same time. Between GPUs a bucket may travel in bf16: it is rounded into memory of its own, and
// what the ranks made of it there is the gradient from then on, on all of them.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/communicator.h"
#include "core/device.h"
#include "core/parameters.h"

namespace itemloom {

struct GradientExchange {
  bool sharded = false;  // a rank gets the sums of its own share of every bucket only, else all of them
  bool rounded = false;  // between GPUs: in bf16
};

// What a rank has of every bucket into which a buffer of so many floats is cut, ascending, without empty ones.
std::vector<FlatRange> bucket_shares(int64_t floats, int rank, int ranks);

class GradientSync {
 public:
  // `gradients` is the store's gradient buffer as its ranks share it.
  GradientSync(Device& device, Communicator& communicator, ExchangeBuffer& gradients, const ParameterStore& store,
               GradientExchange exchange);
  ~GradientSync();
  GradientSync(const GradientSync&) = delete;
  GradientSync& operator=(const GradientSync&) = delete;

  // From the last bucket of the buffer to the first.
  const std::vector<FlatRange>& buckets() const { return buckets_; }
  // This rank's bucket_shares().
  std::vector<FlatRange> shares() const {
    return bucket_shares(store_.size(), communicator_.rank(), communicator_.size());
  }

  // In the last backward of a step: nothing will be added to this parameter's gradient any more.
  void parameter_ready(int parameter);
  // Whether parameter_ready() of this one will tell the device something: that a bucket's exchange comes after what it
  // has been told.
  bool completes_bucket(int parameter) const;
  // Returns when all buckets are reduced, or on a GPU, when what the device is told from now on comes after that.
  // Rethrows what went wrong on the way.
  void finish();

  // Of memory of the device for a bucket in bf16, where so many gradients of so many ranks travel so.
  static int64_t rounded_bytes(int64_t floats, int ranks);

 private:
  void reduce_loop();
  void reduce(FlatRange bucket);
  void reduce_rounded(FlatRange bucket);

  Device& device_;
  Communicator& communicator_;
  ExchangeBuffer& gradients_;
  const ParameterStore& store_;
  GradientExchange exchange_;
  std::vector<FlatRange> buckets_;
  DeviceBlock rounded_;
  std::vector<int> parameters_in_;  // by bucket
  std::vector<int> missing_;        // by bucket: parameters that are not ready yet

  std::mutex mutex_;
  std::condition_variable changed_;
  size_t ready_ = 0;    // buckets that may be reduced
  size_t reduced_ = 0;  // buckets that are
  bool stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace itemloom
