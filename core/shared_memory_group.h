// Ranks that meet in shared memory: processes of one host (core/communicator_mpi.h) or threads of one process (tests).
// Waiting is a short spin and then a futex, so that ranks may outnumber processors.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "core/communicator.h"

namespace itemloom {

// One zeroed piece of memory a rank, aligned to kAlignment, all of them seen by every rank.
struct SharedPieces {
  std::vector<std::byte*> pieces;
  std::shared_ptr<void> storage;
};

// Collective: gives every rank of the group `bytes` of memory.
using SharedMemory = std::function<SharedPieces(int64_t bytes)>;

// The bytes of its control piece that a group needs from each rank.
int64_t shared_control_bytes();

// Where a rank is, in its control piece.
RankStatus& shared_status(const SharedPieces& control, int rank);

// `control` has shared_control_bytes() a rank; `memory` makes what exchange buffers live in. `left` says whether a rank
// of this process has left the group: one flag for all ranks that are threads of one process. Outlives the group.
std::unique_ptr<Communicator> make_shared_memory_communicator(int rank, SharedPieces control, SharedMemory memory,
                                                              std::atomic<bool>& left);

}  // namespace itemloom
