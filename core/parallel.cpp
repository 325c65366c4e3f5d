#include "core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/rank_status.h"

namespace itemloom {
namespace {

// This thread's number in the region it is running, or -1 outside of one.
thread_local int current_thread = -1;

int available_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

class Pool {
 public:
  explicit Pool(int threads) : ranges_(threads), spin_(threads <= available_processors()) {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
  }
  ~Pool() {
    stop_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  int threads() const { return static_cast<int>(ranges_.size()); }

  void run(int64_t count, FunctionRef<void(int64_t, int)> body) {
    const int threads = this->threads();
    if (threads == 1 || count == 1 || current_thread >= 0) {
      for (int64_t task = 0; task < count; ++task) {
        if (current_thread <= 0) heartbeat();
        body(task, std::max(current_thread, 0));
      }
      return;
    }
    std::lock_guard<std::mutex> one_region(region_);
    for (int thread = 0; thread < threads; ++thread) {
      ranges_[thread].next.store(count * thread / threads, std::memory_order_relaxed);
      ranges_[thread].end = count * (thread + 1) / threads;
    }
    body_ = &body;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    busy_.store(threads - 1, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(0);
    wait_for_workers();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void serve(int worker) {
    uint32_t seen = 0;
    while (true) {
      await([&] { return generation_.load(std::memory_order_acquire) != seen; },
            [&] { generation_.wait(seen, std::memory_order_acquire); });
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      work(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  void wait_for_workers() {
    while (int left = busy_.load(std::memory_order_acquire)) {
      await([&] { return busy_.load(std::memory_order_acquire) == 0; },
            [&] { busy_.wait(left, std::memory_order_acquire); });
    }
  }

  // Spins for a while if allowed to, then sleeps.
  template <class Ready, class Sleep>
  void await(Ready ready, Sleep sleep) {
    if (spin_) {
      const auto limit = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
      do {
        for (int turn = 0; turn < 64; ++turn) {
          if (ready()) return;
          __builtin_ia32_pause();
        }
      } while (std::chrono::steady_clock::now() < limit);
    }
    if (!ready()) sleep();
  }

  void work(int thread) {
    current_thread = thread;
    const int threads = this->threads();
    for (int victim = 0; victim < threads; ++victim) {
      Range& range = ranges_[(thread + victim) % threads];
      while (true) {
        const int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= range.end || failed_.load(std::memory_order_relaxed)) break;
        // One thread speaks for all, so that they do not meet at one counter.
        if (thread == 0) heartbeat();
        try {
          (*body_)(task, thread);
        } catch (...) {
          std::lock_guard<std::mutex> lock(error_mutex_);
          if (!error_) error_ = std::current_exception();
          failed_.store(true, std::memory_order_relaxed);
        }
      }
    }
    current_thread = -1;
  }

  std::vector<Range> ranges_;
  std::vector<std::thread> workers_;
  const bool spin_;
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> busy_{0};
  std::atomic<bool> failed_{false};
  std::mutex region_, error_mutex_;
  std::exception_ptr error_;
  const FunctionRef<void(int64_t, int)>* body_ = nullptr;
};

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> instance = std::make_unique<Pool>(available_processors());
  return instance;
}

}  // namespace

void set_thread_count(int count) {
  CHECK(count >= 1, "the number of threads must be at least 1, not ", count);
  CHECK(current_thread < 0, "the number of threads cannot change inside a parallel region");
  if (count != pool()->threads()) {
    pool().reset();
    pool() = std::make_unique<Pool>(count);
  }
}

int thread_count() {
  return pool()->threads();
}

void parallel_for(int64_t count, FunctionRef<void(int64_t)> body) {
  pool()->run(count, [&body](int64_t task, int) { body(task); });
}

void parallel_for_with_thread(int64_t count, FunctionRef<void(int64_t, int)> body) {
  pool()->run(count, body);
}

}  // namespace itemloom
