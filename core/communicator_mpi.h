// Ranks as processes that mpirun or srun has started.
#pragma once

#include <memory>
#include <string>

#include "core/communicator.h"

namespace itemloom {

// Whether this process is one that mpirun, or srun --mpi=pmix, has started. Throws Error where srun started several
// without the means to find each other.
bool launched_with_ranks();

// MPI for the length of the process. Ranks of one host meet in one MPI_Win_allocate_shared window; where there are
// several hosts, all data goes by messages of at most 4 MB. ITEMLOOM_TRANSPORT=messages does without shared memory on
// one host too. A watch (core/rank_watch.h) ends this process when another rank is lost.
class MpiProcess {
 public:
  // Throws Error when MPI has less than MPI_THREAD_SERIALIZED.
  MpiProcess();
  ~MpiProcess();
  MpiProcess(const MpiProcess&) = delete;
  MpiProcess& operator=(const MpiProcess&) = delete;

  Communicator& communicator();
  // How long a rank may stay without a heartbeat.
  void set_rank_timeout(double seconds);

  // Collective: the end of a run that went well, or whose error all ranks share. Nothing may be communicated after it.
  void finish();
  // Says an error that this rank has alone and ends all ranks, after a moment in which the others say where they were.
  [[noreturn]] void abort(const std::string& error);

  // "Open MPI v4.1.4 ...", and "multiple" or "serialized".
  static std::string library();
  static std::string thread_level();

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace itemloom
