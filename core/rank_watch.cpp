#include "core/rank_watch.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <tuple>

#include "core/check.h"
#include "core/stopwatch.h"

namespace itemloom {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRound = std::chrono::milliseconds(50);
constexpr int kRoundsToTell = 20;
// A rank that has failed and is still there after so many is stuck on its way out.
constexpr int kRoundsToLeave = 60;
// How long the one that speaks for a host is waited for.
constexpr int kRoundsToSpeak = 10;
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

RankWatch::RankWatch(int rank, std::vector<WatchedRank> ranks, std::function<void(bool tell)> refresh)
    : rank_(rank), launcher_(getppid()), ranks_(std::move(ranks)), refresh_(std::move(refresh)) {
  status(rank_).process.store(getpid());
  thread_ = std::thread([this] { watch(); });
}

RankWatch::~RankWatch() {
  stop_.store(true);
  thread_.join();
}

void RankWatch::watch() {
  std::vector<Seen> seen(ranks_.size());
  try {
    for (int64_t round = 0; !stop_.load(); ++round) {
      make_round(seen, round);
      std::this_thread::sleep_for(kRound);
    }
  } catch (const std::exception& error) {
    end({join_message(name(rank_), " cannot watch the others: ", error.what()), rank_}, seen);
  }
}

void RankWatch::make_round(std::vector<Seen>& seen, int64_t round) {
  RankStatus& own = status(rank_);
  own.beats.store(heartbeats());
  own.rounds.fetch_add(1);
  const bool failed = own.end.load() == RankEnd::kFailed;
  refresh_(failed || round % kRoundsToTell == 0);
  // It has said why and ends by itself.
  if (failed && ++rounds_since_failure_ > kRoundsToLeave) _exit(1);
  if (own.end.load() != RankEnd::kNone) return;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) look(seen[static_cast<size_t>(rank)], rank);
  const Verdict verdict = verdict_on(seen);
  if (!verdict.reason.empty() || host_has_spoken()) end(verdict, seen);
}

// Takes note of what a rank shows.
void RankWatch::look(Seen& seen, int rank) const {
  const RankStatus& status = this->status(rank);
  const int64_t process = status.process.load();
  if (ranks_[static_cast<size_t>(rank)].local && rank != rank_ && process != 0 && seen.descriptor == -1) {
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

RankWatch::Verdict RankWatch::verdict_on(std::vector<Seen>& seen) const {
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    const std::string loss = loss_of(seen[static_cast<size_t>(rank)], rank);
    if (!loss.empty()) return {loss, rank};
  }
  if (getppid() != launcher_) return {join_message("the launcher (process ", launcher_, ") has died")};
  return standstill_of(seen);
}

// Says that a rank is lost, or nothing.
std::string RankWatch::loss_of(Seen& seen, int rank) const {
  const RankStatus& status = this->status(rank);
  pollfd poll_request{seen.descriptor, POLLIN, 0};
  const bool gone = seen.descriptor >= 0 && poll(&poll_request, 1, 0) == 1;
  // Asked after that: a rank says how it ends before it does.
  const RankEnd end = status.end.load();
  if (end == RankEnd::kFailed) return name(rank) + " has failed";
  if (!gone || end != RankEnd::kNone) return "";
  seen.dead = true;
  return join_message(name(rank), " has died (process ", status.process.load(), ")");
}

// Says that ranks do not move, or nothing. Those that wait for a rank stand as still as it does: the one to name does
// not even make its rounds, or has come to the fewest collectives, or is not in the middle of one.
RankWatch::Verdict RankWatch::standstill_of(const std::vector<Seen>& seen) const {
  int suspect = -1;
  std::tuple<bool, int64_t, bool> least;
  double silent = 0;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    const RankStatus& status = this->status(rank);
    const Seen& one = seen[static_cast<size_t>(rank)];
    const double still = seconds_since(one.last_beat);
    // As long as one rank moves, or has just finished, those that stand still may have been waiting for it.
    if (still <= timeout_.load()) return {};
    if (status.end.load() != RankEnd::kNone) continue;
    const std::tuple<bool, int64_t, bool> key = {seconds_since(one.last_round) < kResponsiveSeconds,
                                                 status.collectives.load(),
                                                 status.phase.load() == RankPhase::kReducingGradients};
    if (suspect >= 0 && key >= least) continue;
    suspect = rank;
    least = key;
    silent = still;
  }
  if (suspect < 0) return {};
  return {
      join_message(name(suspect), ranks_[static_cast<size_t>(suspect)].local ? " has not moved" : " was not heard of",
                   " for ", static_cast<int64_t>(silent), " seconds"),
      suspect};
}

// Of the first ranks, and of `also`.
std::string RankWatch::positions(int also) const {
  std::string text;
  size_t shown = 0;
  for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) {
    if (rank >= kPositionsShown && rank != also) continue;
    const RankStatus& status = this->status(rank);
    text += join_message(shown++ == 0 ? "" : "; ", "rank ", rank, " was ", name_of(status.phase.load()), " at step ",
                         status.step.load(), ", collective ", status.collectives.load());
  }
  if (shown < ranks_.size()) text += join_message("; and ", ranks_.size() - shown, " more");
  return text;
}

// Whether a rank of this host has said why all end.
bool RankWatch::host_has_spoken() const {
  return std::any_of(ranks_.begin(), ranks_.end(),
                     [](const WatchedRank& one) { return one.local && one.status->end.load() == RankEnd::kByWatch; });
}

// The lowest of the host's ranks that can.
bool RankWatch::speaks_for_host(const std::vector<Seen>& seen) const {
  for (int rank = 0; rank < rank_; ++rank) {
    const Seen& one = seen[static_cast<size_t>(rank)];
    if (ranks_[static_cast<size_t>(rank)].local && !one.dead && status(rank).end.load() == RankEnd::kNone &&
        seconds_since(one.last_round) < kResponsiveSeconds) {
      return false;
    }
  }
  return true;
}

// The launcher ends all ranks when it sees the first one go: the one that speaks goes first.
void RankWatch::end(const Verdict& verdict, const std::vector<Seen>& seen) const {
  for (int round = 0; round < kRoundsToSpeak && !host_has_spoken() && !speaks_for_host(seen); ++round) {
    std::this_thread::sleep_for(kRound);
  }
  if (!host_has_spoken()) {
    report_error(join_message(verdict.reason, ", so this run ends: ", positions(verdict.rank)));
  }
  status(rank_).end.store(RankEnd::kByWatch);
  _exit(1);
}

}  // namespace itemloom
