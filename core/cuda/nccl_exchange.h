// Buffers in the GPUs' memory that meet by NCCL (core/communicator.h): on a stream of their own, so that gradients
// travel while backward still runs. Sums have NCCL's order: the same bits on every rank and in every run with the same
// number of ranks, topology and NCCL settings, but not those of another number of ranks.
#pragma once

#include <nccl.h>

#include <memory>

#include "core/communicator.h"
#include "core/cuda/context.h"

namespace itemloom {

// The ranks' GPUs as NCCL knows them. Made once by each rank, together; the id travels by the ranks' communicator.
class NcclGroup {
 public:
  NcclGroup(CudaContext& context, Communicator& communicator);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  ncclComm_t ranks() const { return ranks_; }
  cudaStream_t stream() const { return stream_; }

  // The group's stream goes on after what the context's stream has been told, and the other way round.
  void wait_for_context();
  void context_waits();

  // For what NCCL returns once the ranks have met. Where it failed, kernels of the group may go on waiting for other
  // ranks: Communicator::end_all_ranks().
  void check(ncclResult_t status, const char* what) const;
  // The same for what NCCL has noticed meanwhile: a peer that is gone, a broken connection.
  void check_health() const;

 private:
  CudaContext& context_;
  Communicator& communicator_;
  int exceptions_;  // under way when it was made
  ncclComm_t ranks_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t context_done_ = nullptr, group_done_ = nullptr;
};

}  // namespace itemloom
