#include "core/rank_watch.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <tuple>

#include "core/check.h"
#include "core/stopwatch.h"

namespace itemloom {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRound = std::chrono::milliseconds(50);
constexpr int kRoundsToRefresh = 20;
// A process whose watch has not made a round for so long is stopped or starved, and others speak in its place.
constexpr double kResponsiveSeconds = 2;
constexpr int kPositionsShown = 16;

}  // namespace

// What this rank knows of another one, by its own clock.
struct RankWatch::Seen {
  ~Seen() {
    if (descriptor >= 0) close(descriptor);
  }
  int descriptor = -1;  // of its process; readable when that has ended
  uint64_t beats = 0, rounds = 0;
  Clock::time_point last_beat = Clock::now(), last_round = Clock::now();
  bool dead = false;
};

RankWatch::RankWatch(int rank, std::vector<WatchedRank> ranks, std::function<void()> refresh)
    : rank_(rank), launcher_(getppid()), ranks_(std::move(ranks)), refresh_(std::move(refresh)) {
  ranks_[static_cast<size_t>(rank)].status->process.store(getpid());
  thread_ = std::thread([this] { watch(); });
}

RankWatch::~RankWatch() {
  stop_.store(true);
  thread_.join();
}

void RankWatch::watch() {
  std::vector<Seen> seen(ranks_.size());
  RankStatus& own = *ranks_[static_cast<size_t>(rank_)].status;
  for (int round = 0; !stop_.load(); ++round) {
    own.beats.store(heartbeats());
    own.rounds.fetch_add(1);
    if (round % kRoundsToRefresh == 0) refresh_();
    // A rank that failed says so itself and ends by itself.
    if (own.phase.load() != RankPhase::kFailed) {
      for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) look(seen[static_cast<size_t>(rank)], rank);
      for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
        const std::string loss = loss_of(seen[static_cast<size_t>(rank)], rank);
        if (!loss.empty()) end(loss, seen);
      }
      if (getppid() != launcher_) end(join_message("the launcher (process ", launcher_, ") has died"), seen);
      const std::string standstill = standstill_of(seen);
      if (!standstill.empty()) end(standstill, seen);
    }
    std::this_thread::sleep_for(kRound);
  }
}

// Takes note of what a rank shows.
void RankWatch::look(Seen& seen, int rank) const {
  const WatchedRank& watched = ranks_[static_cast<size_t>(rank)];
  const RankStatus& status = *watched.status;
  const int64_t process = status.process.load();
  if (watched.local && rank != rank_ && process != 0 && seen.descriptor == -1) {
    seen.descriptor = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
    // Where processes cannot see each other (containers), their heartbeats have to do.
    if (seen.descriptor < 0) seen.descriptor = -2;
  }
  if (const uint64_t beats = status.beats.load(); beats != seen.beats) {
    seen.beats = beats;
    seen.last_beat = Clock::now();
  }
  if (const uint64_t rounds = status.rounds.load(); rounds != seen.rounds) {
    seen.rounds = rounds;
    seen.last_round = Clock::now();
  }
}

std::string RankWatch::name(int rank) const {
  return join_message("rank ", rank, " on ", ranks_[static_cast<size_t>(rank)].host);
}

// Says that a rank is lost, or nothing.
std::string RankWatch::loss_of(Seen& seen, int rank) const {
  const RankStatus& status = *ranks_[static_cast<size_t>(rank)].status;
  const RankPhase phase = status.phase.load();
  if (phase == RankPhase::kFinished) return "";
  if (phase == RankPhase::kFailed) return name(rank) + " has failed";
  pollfd poll_request{seen.descriptor, POLLIN, 0};
  if (seen.descriptor < 0 || poll(&poll_request, 1, 0) != 1) return "";
  // It may have finished or failed between the two looks.
  if (status.phase.load() != phase) return "";
  seen.dead = true;
  return join_message(name(rank), " has died (process ", status.process.load(), ")");
}

// Says that ranks do not move, or nothing. Those that wait for a rank stand as still as it does: the one to name does
// not even make its rounds, or has come to the fewest collectives, or is not in the middle of one.
std::string RankWatch::standstill_of(const std::vector<Seen>& seen) const {
  int suspect = -1;
  std::tuple<bool, int64_t, bool> least;
  double silent = 0;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    const RankStatus& status = *ranks_[static_cast<size_t>(rank)].status;
    const Seen& one = seen[static_cast<size_t>(rank)];
    const double still = seconds_since(one.last_beat);
    if (status.phase.load() == RankPhase::kFinished) continue;
    // As long as one rank moves, those that stand still may be waiting for it.
    if (still <= timeout_.load()) return "";
    const std::tuple<bool, int64_t, bool> key = {seconds_since(one.last_round) < kResponsiveSeconds,
                                                 status.collectives.load(),
                                                 status.phase.load() == RankPhase::kReducingGradients};
    if (suspect >= 0 && key >= least) continue;
    suspect = rank;
    least = key;
    silent = still;
  }
  if (suspect < 0) return "";
  return join_message(name(suspect),
                      ranks_[static_cast<size_t>(suspect)].local ? " has not moved" : " was not heard of", " for ",
                      static_cast<int64_t>(silent), " seconds");
}

std::string RankWatch::positions() const {
  std::string text;
  for (size_t rank = 0; rank < ranks_.size() && rank < kPositionsShown; ++rank) {
    const RankStatus& status = *ranks_[rank].status;
    text += join_message(rank == 0 ? "" : "; ", "rank ", rank, " was ", name_of(status.phase.load()), " at step ",
                         status.step.load(), ", collective ", status.collectives.load());
  }
  if (ranks_.size() > kPositionsShown) text += join_message("; and ", ranks_.size() - kPositionsShown, " more");
  return text;
}

// The lowest of the host's ranks that can.
bool RankWatch::speaks_for_host(const std::vector<Seen>& seen) const {
  for (int rank = 0; rank < rank_; ++rank) {
    const WatchedRank& watched = ranks_[static_cast<size_t>(rank)];
    const Seen& one = seen[static_cast<size_t>(rank)];
    if (watched.local && !one.dead && watched.status->phase.load() != RankPhase::kFailed &&
        watched.status->phase.load() != RankPhase::kFinished && seconds_since(one.last_round) < kResponsiveSeconds) {
      return false;
    }
  }
  return true;
}

void RankWatch::end(const std::string& reason, const std::vector<Seen>& seen) const {
  if (speaks_for_host(seen)) {
    std::fprintf(stderr, "itemloom: %s, so this run ends: %s\n", reason.c_str(), positions().c_str());
  } else {
    // The launcher ends all ranks when it sees the first one go; the one that speaks is to be quicker.
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  _exit(1);
}

}  // namespace itemloom
