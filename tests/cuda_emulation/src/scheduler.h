// Streams, and the order in which their work runs.
//
// A stream is a queue. Nothing runs by itself: work runs while a host thread appends more of it or waits for some, and
// which queue goes on is drawn from CUDA_EMULATION_SEED. So a wait that a program forgot is, for some seed, a wait that
// did not happen.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "handles.h"
#include "internal.h"

namespace cuda_emulation {

// One lock over everything of the emulated devices. Work runs with it held.
using Lock = std::unique_lock<std::mutex>;

enum class Progress {
  kFinished,
  kAdvanced,  // did something, is to be called again
  kWaiting,   // did nothing, waits for somebody else
};

// What stands in a queue.
struct Work {
  std::string what;
  std::function<Progress()> advance;
};
// Makes the work, anew for every launch of a graph that it was captured into.
using WorkMaker = std::function<Work()>;
// For work that is done in one go.
WorkMaker simple_work(std::string what, std::function<void()> run);

struct Stream;
struct Capture;

// The first `number` operations of a stream.
struct Mark {
  std::shared_ptr<Stream> stream;
  uint64_t number = 0;
  bool reached() const;
  bool has_work_behind() const;
};

struct Operation {
  Work work;
  uint64_t number;  // in its stream, from 1
  std::vector<Mark> after;
};

struct Stream {
  int device = 0;
  unsigned flags = cudaStreamDefault;
  bool is_legacy = false;
  bool is_destroyed = false;
  uint64_t issued = 0;
  uint64_t done = 0;
  std::deque<Operation> queue;
  // While it is being captured: into what, and the nodes that the next one comes after.
  std::shared_ptr<Capture> capture;
  std::vector<size_t> capture_tail;

  bool is_idle() const { return done == issued; }
  // Waits for the legacy stream of its device and is waited for by it.
  bool is_blocking() const { return !is_legacy && (flags & cudaStreamNonBlocking) == 0; }
};

inline bool Mark::reached() const {
  return !stream || stream->done >= number;
}

inline bool Mark::has_work_behind() const {
  return stream && stream->issued > number;
}

class Scheduler {
 public:
  static Scheduler& instance();

  Lock lock() { return Lock(mutex_); }

  // All of these are called with the lock held.
  cudaStream_t create(unsigned flags, int device);
  void destroy(cudaStream_t handle);  // of a stream that there is
  // nullptr when there is no such stream (any more). The null stream is the legacy stream of the current device.
  std::shared_ptr<Stream> find(cudaStream_t handle);
  std::shared_ptr<Stream> legacy(int device);
  const std::vector<std::shared_ptr<Stream>>& streams() const { return streams_; }

  // Appends to the stream, or to the graph that it is captured into.
  cudaError_t append(const std::shared_ptr<Stream>& stream, const WorkMaker& make, std::vector<Mark> after = {});
  // Runs work until the condition holds. `what` is waited for; if it is what one stream does, `waited_for` is that one.
  void run_until(Lock& lock, const std::function<bool()>& condition, const char* what,
                 const std::shared_ptr<Stream>& waited_for = nullptr);
  void wait_for(Lock& lock, const std::shared_ptr<Stream>& stream);
  void wait_for(Lock& lock, const Mark& mark, const char* what);
  void wait_for_device(Lock& lock, int device);
  // One step of some work that can go on; false when there is none.
  bool run_one();
  // The same for a host that asks whether something is done, and waits for it by asking again and again.
  void run_for_query();
  // Whether a host thread waits.
  bool host_waits() const { return waiting_threads_ > 0; }
  // Something outside the queues has changed that work may wait for.
  void notify() { changed_.notify_all(); }

 private:
  enum class Eagerness { kEager, kLazy, kMixed };

  Scheduler();
  bool step(const std::shared_ptr<Stream>& stream);
  void run_some();
  void shuffle_streams();
  void choose_order(const std::shared_ptr<Stream>& waited_for);
  void forget_destroyed();
  [[noreturn]] void report_stuck(const char* what) const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Stream>> streams_;  // also the order in which they are asked to go on
  HandleTable<Stream, cudaStream_t> handles_;
  std::map<int, std::shared_ptr<Stream>> legacy_;
  int waiting_threads_ = 0;
  Random random_;
  Eagerness eagerness_;
  bool reorder_every_step_ = true;
};

// ---- For the API functions ----------------------------------------------------------------------------------------

// Appends to the stream of a handle; without the lock. Errors are remembered.
cudaError_t enqueue_work(cudaStream_t stream, const WorkMaker& make);

void count_host_synchronisation();
void count_event_wait(const Mark& mark);
void count_event_query(const Mark& mark);
void count_device_allocation();

}  // namespace cuda_emulation
