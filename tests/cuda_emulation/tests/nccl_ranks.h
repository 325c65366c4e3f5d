// Ranks of NCCL for tests: threads of one process, or processes.
#pragma once

#include <nccl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "host_test.h"

namespace host_test {

#define EXPECT_NCCL(call) EXPECT((call) == ncclSuccess)

struct Rank {
  int rank, ranks;
  ncclComm_t communicator = nullptr;
  cudaStream_t stream = nullptr;

  Rank(int rank, int ranks, const ncclUniqueId& id) : rank(rank), ranks(ranks) {
    EXPECT_CUDA(cudaSetDevice(rank));
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    EXPECT_NCCL(ncclCommInitRank(&communicator, ranks, id, rank));
  }
  void finish() const {
    EXPECT_CUDA(cudaStreamSynchronize(stream));
    EXPECT_NCCL(ncclCommDestroy(communicator));
  }
};

using RankBody = std::function<void(Rank&)>;

inline Environment devices(int count, bool is_checked = false, int seed = 1) {
  return {{"CUDA_EMULATION_DEVICES", std::to_string(count)},
          {"CUDA_EMULATION_CHECK", is_checked ? "1" : "0"},
          {"CUDA_EMULATION_SEED", std::to_string(seed)}};
}

inline void run_threads(int ranks, const RankBody& body) {
  ncclUniqueId id;
  EXPECT_NCCL(ncclGetUniqueId(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Rank here(rank, ranks, id);
      body(here);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Returns how each rank's process ended, as waitpid says it.
inline std::vector<int> run_processes(int ranks, const RankBody& body) {
  ncclUniqueId id;
  EXPECT_NCCL(ncclGetUniqueId(&id));
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      Rank here(rank, ranks, id);
      body(here);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  std::vector<int> ends;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    ends.push_back(status);
  }
  return ends;
}

inline void expect_processes_end_well(int ranks, const RankBody& body) {
  for (const int status : run_processes(ranks, body)) EXPECT(status == 0);
}

}  // namespace host_test
