// A rank's communicator and the collectives that it runs.
#pragma once

#include <nccl.h>

#include <atomic>
#include <memory>
#include <thread>

#include "nccl_world.h"
#include "scheduler.h"

namespace cuda_emulation {

enum class CollectiveKind : int32_t { kAllReduce, kBroadcast, kReduce };

struct Collective {
  CollectiveKind kind;
  const void* send;
  void* receive;
  size_t count;
  ncclDataType_t type;
  int root = 0;
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(std::unique_ptr<World> world, int device);

  World& world() { return *world_; }
  int device() const { return device_; }

  // Waits for all ranks. Without the scheduler's lock, as leave().
  ncclResult_t meet(std::string& error);
  // After which it is of no use any more; the other ranks see it.
  void leave();

  // All of these with the scheduler's lock held.

  // The work of a collective: its place among the communicator's collectives is taken when the work is made.
  WorkMaker work(const Collective& collective);
  // Waits for what was issued.
  void finish(Lock& lock);
  // Looks whether the other ranks live.
  ncclResult_t async_error();
  // What is known of it without looking.
  ncclResult_t error() const { return error_; }

 private:
  friend class CollectiveRun;

  bool loses_connection_at(int64_t collective) const;

  void start_helper();
  void help();

  std::unique_ptr<World> world_;
  int device_;
  int64_t issued_ = 0;
  int64_t completed_ = 0;
  int64_t rounds_ = 0;  // that this rank has taken
  ncclResult_t error_ = ncclSuccess;
  std::atomic<bool> has_left_{false};
  std::thread helper_;
};

}  // namespace cuda_emulation
