// The watch of a rank over the others: a thread that ends this process, with one line that says which rank was where,
// when a rank or the launcher has died, when a rank has failed or has not moved for too long. It needs nothing of the
// main thread, which may be computing, waiting in a collective or stuck itself.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/rank_status.h"

namespace itemloom {

struct WatchedRank {
  RankStatus* status;
  std::string host;
  bool local;  // on this host: the death of its process is seen at once
};

class RankWatch {
 public:
  // How long a rank may stay without a heartbeat, until set_timeout() says otherwise.
  static constexpr double kTimeoutSeconds = 300;

  // `ranks` are all ranks. `refresh` is called in every round, brings news of ranks on other hosts and, about once a
  // second and when this rank has failed, is to `tell` them of this one.
  RankWatch(int rank, std::vector<WatchedRank> ranks, std::function<void(bool tell)> refresh);
  // Stops watching.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  void set_timeout(double seconds) { timeout_.store(seconds); }
  double timeout() const { return timeout_.load(); }

 private:
  struct Seen;

  // Why this run has to end, empty if it does not, and the rank it is about, if it is about one.
  struct Verdict {
    std::string reason;
    int rank = -1;
  };

  void watch();
  void make_round(std::vector<Seen>& seen, int64_t round);
  void look(Seen& seen, int rank) const;
  RankStatus& status(int rank) const { return *ranks_[static_cast<size_t>(rank)].status; }
  std::string name(int rank) const;
  Verdict verdict_on(std::vector<Seen>& seen) const;
  std::string loss_of(Seen& seen, int rank) const;
  Verdict standstill_of(const std::vector<Seen>& seen) const;
  std::string positions(int also) const;
  bool host_has_spoken() const;
  bool speaks_for_host(const std::vector<Seen>& seen) const;
  [[noreturn]] void end(const Verdict& verdict, const std::vector<Seen>& seen) const;

  int rank_;
  int launcher_;  // the process that started this one
  std::vector<WatchedRank> ranks_;
  std::function<void(bool tell)> refresh_;
  std::atomic<double> timeout_{kTimeoutSeconds};
  std::atomic<bool> stop_{false};
  int rounds_since_failure_ = 0;
  std::thread thread_;
};

}  // namespace itemloom
