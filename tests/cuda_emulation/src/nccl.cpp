// NCCL's calls. A collective is appended to its stream and runs when the stream is driven and the other ranks have come
// to theirs.
#include <nccl.h>

#include <cstring>
#include <functional>
#include <vector>

#include "handles.h"
#include "internal.h"
#include "nccl_communicator.h"
#include "nccl_reduce.h"

using namespace cuda_emulation;

namespace {

SharedHandleTable<Communicator, ncclComm_t>& communicators() {
  static auto& all = *new SharedHandleTable<Communicator, ncclComm_t>;
  return all;
}

std::shared_ptr<Communicator> find(ncclComm_t handle) {
  return communicators().find(handle);
}

// Calls between ncclGroupStart and ncclGroupEnd take effect at its end.
struct Group {
  int depth = 0;
  std::vector<std::function<ncclResult_t()>> calls;
  ncclResult_t error = ncclSuccess;
};

thread_local Group group;
thread_local std::string last_error;

ncclResult_t refuse(ncclResult_t result, const std::string& message) {
  last_error = message;
  if (group.depth > 0) group.error = result;
  return result;
}

ncclResult_t now_or_at_group_end(std::function<ncclResult_t()> call) {
  if (group.depth == 0) return call();
  group.calls.push_back(std::move(call));
  return ncclSuccess;
}

ncclResult_t run_group() {
  Group ended;
  std::swap(ended, group);
  ncclResult_t result = ended.error;
  for (const auto& call : ended.calls) {
    if (result == ncclSuccess) result = call();
  }
  return result;
}

std::string name_in(const ncclUniqueId& id) {
  return std::string(id.internal, strnlen(id.internal, sizeof id.internal));
}

ncclResult_t join(ncclComm_t* handle, int ranks, const ncclUniqueId& id, int rank) {
  if (!handle) return refuse(ncclInvalidArgument, "the communicator's place is NULL");
  if (ranks < 1 || rank < 0 || rank >= ranks) {
    return refuse(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
  }
  if (ranks > kMostRanks) report("not emulated", "NCCL with " + std::to_string(ranks) + " ranks");
  if (settings().devices == 0) return refuse(ncclUnhandledCudaError, "no CUDA-capable device is detected");
  const std::string name = name_in(id);
  if (name.rfind("/cuda_emulation_nccl_", 0) != 0) {
    return refuse(ncclInvalidArgument, "the unique id is not one that ncclGetUniqueId made");
  }
  std::string error;
  auto world = std::make_unique<World>(name, ranks, rank, current_device(), error);
  if (!error.empty()) return refuse(ncclInvalidUsage, error);
  const auto communicator = std::make_shared<Communicator>(std::move(world), current_device());
  *handle = communicators().add(communicator);
  return now_or_at_group_end([communicator, handle] {
    std::string failure;
    const ncclResult_t result = communicator->meet(failure);
    if (result == ncclSuccess) return result;
    communicator->leave();
    communicators().remove(*handle);
    *handle = nullptr;
    return refuse(result, failure);
  });
}

ncclResult_t check(const Collective& collective, ncclRedOp_t operation, int ranks) {
  if (collective.type < 0 || collective.type >= ncclNumTypes) return refuse(ncclInvalidArgument, "no such type");
  if (operation < 0 || operation >= ncclNumOps) return refuse(ncclInvalidArgument, "no such reduction");
  if (collective.root < 0 || collective.root >= ranks) return refuse(ncclInvalidArgument, "no such root");
  if (element_bytes(collective.type) == 0) report("not emulated", "NCCL with this type");
  if (operation != ncclSum) report("not emulated", "NCCL with this reduction");
  return ncclSuccess;
}

ncclResult_t enqueue_collective(const std::shared_ptr<Communicator>& communicator, const Collective& collective,
                                cudaStream_t stream_handle) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  if (const ncclResult_t error = communicator->error(); error != ncclSuccess) {
    return refuse(error, error == ncclSystemError ? "a connection is broken" : "another rank has left or died");
  }
  const bool is_default = stream_handle == nullptr || stream_handle == cudaStreamLegacy;
  const auto stream = is_default ? scheduler.legacy(communicator->device()) : scheduler.find(stream_handle);
  if (!stream || stream->device != communicator->device()) {
    return refuse(ncclUnhandledCudaError, "the stream is not one of the communicator's device");
  }
  const cudaError_t status = scheduler.append(stream, communicator->work(collective));
  return status == cudaSuccess ? ncclSuccess : refuse(ncclUnhandledCudaError, cudaGetErrorString(status));
}

ncclResult_t start(const Collective& collective, ncclRedOp_t operation, ncclComm_t handle, cudaStream_t stream) {
  const auto communicator = find(handle);
  if (!communicator) return refuse(ncclInvalidArgument, "no such communicator");
  const ncclResult_t result = check(collective, operation, communicator->world().ranks());
  if (result != ncclSuccess) return result;
  if (collective.count == 0) return ncclSuccess;
  return now_or_at_group_end([=] { return enqueue_collective(communicator, collective, stream); });
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  if (!version) return refuse(ncclInvalidArgument, "version is NULL");
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (!id) return refuse(ncclInvalidArgument, "id is NULL");
  std::memset(id, 0, sizeof *id);
  const std::string name = new_world_name();
  std::memcpy(id->internal, name.data(), name.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* handle, int ranks, ncclUniqueId id, int rank) {
  return join(handle, ranks, id, rank);
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  if (!handle) return ncclSuccess;
  const auto communicator = find(handle);
  if (!communicator) return refuse(ncclInvalidArgument, "no such communicator");
  {
    Lock lock = Scheduler::instance().lock();
    communicator->finish(lock);
  }
  communicator->leave();
  communicators().remove(handle);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  const auto communicator = find(handle);
  if (!communicator || !error) return refuse(ncclInvalidArgument, "no such communicator");
  const Lock lock = Scheduler::instance().lock();
  *error = communicator->async_error();
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t) {
  return last_error.c_str();
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  return --group.depth == 0 ? run_group() : ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                           ncclComm_t communicator, cudaStream_t stream) {
  return start({CollectiveKind::kAllReduce, send, receive, count, type}, operation, communicator, stream);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t communicator, cudaStream_t stream) {
  return start({CollectiveKind::kBroadcast, send, receive, count, type, root}, ncclSum, communicator, stream);
}

ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                        int root, ncclComm_t communicator, cudaStream_t stream) {
  return start({CollectiveKind::kReduce, send, receive, count, type, root}, operation, communicator, stream);
}

}  // extern "C"
