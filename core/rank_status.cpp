#include "core/rank_status.h"

namespace itemloom {
namespace {

std::atomic<uint64_t> beats{0};

}  // namespace

const char* name_of(RankPhase phase) {
  switch (phase) {
    case RankPhase::kStarting:
      return "starting";
    case RankPhase::kReadingData:
      return "reading data";
    case RankPhase::kWaitingForBatch:
      return "waiting for its batch";
    case RankPhase::kComputing:
      return "computing";
    case RankPhase::kReducingGradients:
      return "reducing gradients";
    case RankPhase::kUpdating:
      return "updating parameters";
    case RankPhase::kValidating:
      return "validating";
    case RankPhase::kSaving:
      return "saving";
    case RankPhase::kEnding:
      return "ending";
  }
  return "unknown";
}

void RankStatus::enter(RankPhase next) {
  phase.store(next, std::memory_order_relaxed);
  heartbeat();
}

void heartbeat() {
  beats.fetch_add(1, std::memory_order_relaxed);
}

uint64_t heartbeats() {
  return beats.load(std::memory_order_relaxed);
}

}  // namespace itemloom
