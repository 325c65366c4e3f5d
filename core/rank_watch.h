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

  // `ranks` are all ranks, `refresh` is called about once a second and brings news of ranks on other hosts.
  RankWatch(int rank, std::vector<WatchedRank> ranks, std::function<void()> refresh);
  // Stops watching.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  void set_timeout(double seconds) { timeout_.store(seconds); }

 private:
  struct Seen;

  void watch();
  void look(Seen& seen, int rank) const;
  std::string name(int rank) const;
  std::string loss_of(Seen& seen, int rank) const;
  std::string standstill_of(const std::vector<Seen>& seen) const;
  std::string positions() const;
  bool speaks_for_host(const std::vector<Seen>& seen) const;
  [[noreturn]] void end(const std::string& reason, const std::vector<Seen>& seen) const;

  int rank_;
  int launcher_;  // the process that started this one
  std::vector<WatchedRank> ranks_;
  std::function<void()> refresh_;
  std::atomic<double> timeout_{kTimeoutSeconds};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace itemloom
