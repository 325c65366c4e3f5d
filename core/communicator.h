// Ranks that train one model together.
//
// Every rank calls the same collectives in the same order. Sums are taken over the ranks in one fixed tree,
// sum(0, n) = sum(0, p) + sum(p, n) with p the largest power of two below n, whatever carries the data: a sum has the
// same bits on every rank, on one host or many, and 2^k ranks that each hold the sum of a subtree give the bits of one
// rank that holds them all.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/bf16.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/rank_status.h"
#include "core/view.h"

namespace itemloom {

// Ranges are shared out among ranks in whole blocks of this many floats, counted from the range's beginning.
inline constexpr int64_t kShareBlock = 16384;

// The share of `range` that belongs to a rank; empty where there are fewer blocks than ranks.
FlatRange share_of(FlatRange range, int rank, int size);

// out[i] = the tree sum of sources[0][i] ... sources[count - 1][i]; `out` may be one of the sources.
void tree_sum(const float* const* sources, int count, int64_t size, float* out);
void tree_sum(const double* const* sources, int count, int64_t size, double* out);

// A flat buffer of floats that every rank has one of, and the two halves of an all-reduce over a range of it. Between
// two calls a rank may change what lies outside of its own share of the ranges of the first one; its own share stays
// untouched until all ranks have met again, in any collective of the communicator or of this buffer.
class ExchangeBuffer {
 public:
  virtual ~ExchangeBuffer() = default;

  // This rank's buffer; zero at first, aligned to kAlignment.
  virtual Vector<float> values() const = 0;
  // Afterwards this rank's share of the range holds the tree sum over all ranks' buffers.
  virtual void reduce_scatter_sum(FlatRange range) = 0;
  // Afterwards every rank's share of the range is in this rank's buffer.
  virtual void all_gather(FlatRange range) = 0;
  // Both halves: afterwards the whole range holds the sum.
  virtual void all_reduce_sum(FlatRange range) {
    reduce_scatter_sum(range);
    all_gather(range);
  }

  // Sums of bf16 numbers in the memory of GPUs, other than values(): half the bytes. Every addition on the way rounds.
  // Afterwards this rank's share of `rounded` holds the sum, and with all_reduce_rounded all of it, on every rank the
  // same bits.
  virtual void reduce_scatter_rounded(Vector<Bf16> rounded);
  virtual void all_reduce_rounded(Vector<Bf16> rounded);

  // Of buffers in a GPU's memory, whose calls above return before the work is done: what the GPU has been told to do
  // until now comes before what is asked for next; and what it is told from now on comes after all that was asked for.
  virtual void begin_after_device() {}
  virtual void device_continues_after() {}
  // May be called at any time, by the thread that exchanges: where a library has noticed that an exchange between GPUs
  // failed, which then never ends, Communicator::end_all_ranks().
  virtual void check_health() {}
  // What it is put on, where kernels may be put between two calls; the GPU is the calling thread's from then on.
  virtual CUstream_st* stream() { return nullptr; }
};

// The buffer of a rank alone, which meets nobody.
class OwnBuffer : public ExchangeBuffer {
 public:
  OwnBuffer(DeviceKind kind, int64_t floats)
      : block_(kind, floats * static_cast<int64_t>(sizeof(float))), floats_(floats) {}

  Vector<float> values() const override { return block_.as<float>(floats_); }
  void reduce_scatter_sum(FlatRange) override {}
  void all_gather(FlatRange) override {}

 private:
  DeviceBlock block_;
  int64_t floats_;
};

class Communicator {
 public:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_first() const { return rank_ == 0; }

  // all[r * bytes ...] = rank r's bytes; `bytes` is the same on all ranks.
  void all_gather(const void* mine, int64_t bytes, void* all);
  void broadcast(void* data, int64_t bytes, int root = 0);
  void barrier() { all_gather(nullptr, 0, nullptr); }

  // In place.
  void all_reduce_sum(Vector<double> values);
  void all_reduce_sum(Vector<int64_t> values);
  // Every rank's text (or other bytes), by rank.
  std::vector<std::string> all_gather_text(const std::string& mine);

  // A collective too. May be used by another thread than the communicator, one call at a time.
  virtual std::unique_ptr<ExchangeBuffer> make_exchange_buffer(int64_t floats) = 0;

  // What the data travels by, for people: "one process", "shared memory", ...
  virtual std::string transport() const = 0;
  // This rank's number among those of its host.
  virtual int local_rank() const { return 0; }

  // Says that this rank comes to no more collectives, because of an error: waits that are under way on other threads
  // of its process throw Error, and where ranks are threads, those of the other ranks are among them. (Other processes
  // notice by core/rank_watch.h and end.)
  virtual void leave() {}

  // For an error after which nothing on a GPU may ever be done: ends all ranks with `error` as this one's, without
  // unwinding, because destructors wait for the GPU. Where a rank is no process of its own it throws Error.
  [[noreturn]] void end_all_ranks(const std::string& error);
  // What end_all_ranks() does where ranks are processes; it must not return.
  void use_end(std::function<void(const std::string& error)> end) { end_ = std::move(end); }

  // Where this rank is; what the other ranks say about it when it dies or hangs.
  RankStatus& status() { return *status_; }

 protected:
  void use_status(RankStatus* status) { status_ = status; }

 private:
  virtual void gather_bytes(const void* mine, int64_t bytes, void* all) = 0;
  virtual void broadcast_bytes(void* data, int64_t bytes, int root) = 0;

  int rank_, size_;
  RankStatus own_status_;
  RankStatus* status_ = &own_status_;
  std::function<void(const std::string&)> end_;
};

// A collective: sums in place of doubles in the memory of the device, in its order and without waiting for it. Each of
// them is zero on all ranks but one, so that a sum is exact and has the same bits whatever carries it.
void gather_by_sum(Device& device, Communicator& communicator, Vector<double> values);

// One process on its own.
std::unique_ptr<Communicator> make_self_communicator();

// The lowest rank whose text is another than rank 0's, where there is one, with both texts. A collective.
struct Disagreement {
  int rank;
  std::string first, other;
};
std::optional<Disagreement> find_disagreement(Communicator& communicator, const std::string& mine);

// What together() throws: the same on every rank, so that one of them can say it and all can end in order.
class SharedError : public Error {
 public:
  using Error::Error;
};

// Runs `body`, which may throw on some ranks and not on others but calls no collective. When it throws anywhere, every
// rank throws SharedError with the message of the lowest rank that did, which names that rank unless it is the first or
// all ranks say the same.
void together(Communicator& communicator, FunctionRef<void()> body);

}  // namespace itemloom
