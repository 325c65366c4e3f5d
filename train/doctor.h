// What `itemloom doctor` finds out about the ranks, their hosts and what is between them, before a long training does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/communicator.h"

namespace itemloom {

// What one rank knows of itself. Memory and file systems are in bytes.
struct RankFacts {
  std::string host, version;
  std::string processors;       // that it may run on: "0-3,8"
  int64_t sharing = 1;          // ranks, with itself, that may run on the very same ones
  int64_t host_processors = 0;  // that its launcher may run on
  int64_t threads = 0;          // that it would train with
  std::string kernels;          // "avx2" or "avx512"
  int64_t memory_total = 0, memory_available = 0;
  int64_t memory_limit = 0;                                 // the cgroup's, where it is lower; else 0
  std::string mpi;                                          // library, or "not started by mpirun"
  std::string thread_level;                                 // of MPI
  std::string cuda, nccl;                                   // what there is of them, or "not built"
  std::string gpu_error;                                    // why it cannot train on a GPU; empty: it can
  int64_t shared_memory_total = 0, shared_memory_free = 0;  // of /dev/shm, where Open MPI puts its windows

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("host", host);
    visit("version", version);
    visit("processors", processors);
    visit("sharing", sharing);
    visit("host_processors", host_processors);
    visit("threads", threads);
    visit("kernels", kernels);
    visit("memory_total", memory_total);
    visit("memory_available", memory_available);
    visit("memory_limit", memory_limit);
    visit("mpi", mpi);
    visit("thread_level", thread_level);
    visit("cuda", cuda);
    visit("nccl", nccl);
    visit("gpu_error", gpu_error);
    visit("shared_memory_total", shared_memory_total);
    visit("shared_memory_free", shared_memory_free);
  }
};

// The run folder as one rank sees it.
struct FolderFacts {
  std::string error;              // why it cannot be used; empty: it can
  int64_t free = 0;               // bytes
  double write_milliseconds = 0;  // on rank 0: until a file of kProbeBytes was written, flushed to disk and renamed

  template <class Visitor>
  void describe(Visitor&& visit) {
    visit("error", error);
    visit("free", free);
    visit("write_milliseconds", write_milliseconds);
  }
};

inline constexpr int64_t kProbeBytes = 1'000'000;

// How long the slowest rank takes, the median of several times.
struct ExchangeRate {
  int64_t bytes = 0;              // of each rank's buffer
  double all_reduce_seconds = 0;  // of the whole buffer over all ranks; 0 with one rank, which has none
  double memcpy_seconds = 0;      // of as many bytes, by every rank at the same time

  double all_reduce_rate() const { return static_cast<double>(bytes) / all_reduce_seconds; }  // bytes a second
  double memcpy_rate() const { return static_cast<double>(bytes) / memcpy_seconds; }
  double share_of_memcpy() const { return memcpy_seconds / all_reduce_seconds; }
};

// The same on every rank.
struct Diagnosis {
  std::string transport;
  std::vector<RankFacts> ranks;
  std::vector<ExchangeRate> rates;   // as asked for; empty where shared memory is too small for the larger one
  int64_t wrong_sums = 0;            // of floats that went through an all-reduce
  std::string run;                   // the folder that was asked for; empty: none
  std::vector<FolderFacts> folders;  // by rank, where a folder was asked for
  std::string device;                // that the ranks are to train on: as asked for, else that of the run; empty: any

  int64_t hosts() const;
};

// A collective of about a second for each of `exchange_bytes`, the sizes of buffers whose all-reduce is timed (at least
// one). Of a run folder that is not there, nothing stays.
Diagnosis examine(Communicator& communicator, const std::string& run, const std::string& device,
                  const std::vector<int64_t>& exchange_bytes);

struct Verdict {
  bool fatal;  // training would fail
  std::string text;
};

// What a person should do something about.
std::vector<Verdict> judge(const Diagnosis& diagnosis);

}  // namespace itemloom
