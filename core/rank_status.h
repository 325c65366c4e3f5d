// Where a rank is, as other ranks of its host read it from shared memory while it runs, hangs or is dead.
#pragma once

#include <atomic>
#include <cstdint>

namespace itemloom {

enum class RankPhase : int32_t {
  kStarting,
  kReadingData,
  kWaitingForBatch,
  kComputing,
  kReducingGradients,
  kUpdating,
  kValidating,
  kSaving,
  kEnding,  // waits for the others to end, too
};

// "computing", ...
const char* name_of(RankPhase phase);

// How a rank has ended: whoever waits for it waits in vain.
enum class RankEnd : int32_t {
  kNone,
  kFinished,  // together with all others; its process may end
  kFailed,    // by an error, which it has said
  kByWatch,   // by its watch (core/rank_watch.h), after it or another one of its host has said why
};

struct RankStatus {
  std::atomic<int64_t> step{0};         // of training, from 1
  std::atomic<int64_t> collectives{0};  // begun by its main thread
  std::atomic<RankPhase> phase{RankPhase::kStarting};
  std::atomic<RankEnd> end{RankEnd::kNone};
  // Kept by the rank's watch (core/rank_watch.h): its process, its heartbeats, and a count that goes on as long as the
  // process runs at all.
  std::atomic<int64_t> process{0};
  std::atomic<uint64_t> beats{0};
  std::atomic<uint64_t> rounds{0};

  void enter(RankPhase phase);
};

// Says that this process gets on with its work: called wherever a longer work passes by. Cheap (one relaxed increment).
void heartbeat();
// The number of calls so far.
uint64_t heartbeats();

}  // namespace itemloom
