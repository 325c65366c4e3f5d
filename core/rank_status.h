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
  kFinished,  // its process may end
  kFailed,    // an exception; it has said which
};

// "computing", ...
const char* name_of(RankPhase phase);

struct RankStatus {
  std::atomic<int64_t> step{0};         // of training, from 1
  std::atomic<int64_t> collectives{0};  // begun by its main thread
  std::atomic<RankPhase> phase{RankPhase::kStarting};
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
