// What NCCL's ranks do wrong: they disagree, die, leave, or give wrong buffers.
#include <signal.h>

#include <cstring>

#include "nccl_ranks.h"

using namespace host_test;

namespace {

void ranks_on_one_gpu() {
  ncclUniqueId id;
  EXPECT_NCCL(ncclGetUniqueId(&id));
  const auto join = [&](int rank) {
    ncclComm_t communicator;
    EXPECT(ncclCommInitRank(&communicator, 2, id, rank) == ncclInvalidUsage);
    EXPECT(std::strstr(ncclGetLastError(nullptr), "Duplicate GPU") != nullptr);
  };
  std::thread other(join, 1);
  join(0);
  other.join();
}

void counts_differ(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  const size_t count = r.rank == 0 ? 100 : 99;
  EXPECT_NCCL(ncclAllReduce(values, values, count, ncclFloat32, ncclSum, r.communicator, r.stream));
  r.finish();
}

void types_differ(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  const ncclDataType_t type = r.rank == 0 ? ncclFloat32 : ncclBfloat16;
  EXPECT_NCCL(ncclAllReduce(values, values, 100, type, ncclSum, r.communicator, r.stream));
  r.finish();
}

void orders_differ(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  for (int turn = 0; turn < 2; ++turn) {
    if (turn == r.rank) {
      EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
    } else {
      EXPECT_NCCL(ncclBroadcast(values, values, 100, ncclFloat32, 0, r.communicator, r.stream));
    }
  }
  r.finish();
}

void buffers_overlap(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  EXPECT_NCCL(ncclAllReduce(values, values + 10, 50, ncclFloat32, ncclSum, r.communicator, r.stream));
  r.finish();
}

void counts_are_bytes(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  EXPECT_NCCL(ncclAllReduce(values, values, 400, ncclFloat32, ncclSum, r.communicator, r.stream));
  r.finish();
}

void sends_what_nobody_wrote(Rank& r) {
  void* values = nullptr;
  EXPECT_CUDA(cudaMalloc(&values, 400));
  EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  r.finish();
}

// Waits until there is one, which is looked for while the work goes on.
ncclResult_t error_of(const Rank& r) {
  ncclResult_t error = ncclSuccess;
  while (error == ncclSuccess) {
    cudaStreamQuery(r.stream);
    EXPECT_NCCL(ncclCommGetAsyncError(r.communicator, &error));
  }
  return error;
}

void survives_a_dead_rank(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  EXPECT_CUDA(cudaStreamSynchronize(r.stream));
  if (r.rank == 1) raise(SIGKILL);
  // Rank 1 may be dead already.
  const ncclResult_t started = ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream);
  EXPECT(started == ncclSuccess || started == ncclRemoteError);
  EXPECT(error_of(r) == ncclRemoteError);
  if (started == ncclSuccess) EXPECT(cudaStreamQuery(r.stream) == cudaErrorNotReady);
  EXPECT(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream) == ncclRemoteError);
}

void one_rank_dies() {
  const std::vector<int> ends = run_processes(2, survives_a_dead_rank);
  EXPECT(ends[0] == 0);
  EXPECT(WIFSIGNALED(ends[1]));
}

// Rank 1 ends its communicator, and rank 0 is told that it will never come.
void one_rank_leaves(Rank& r) {
  if (r.rank == 1) return r.finish();
  float* values = upload(std::vector<float>(100, 1));
  EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  EXPECT(error_of(r) == ncclRemoteError);
  EXPECT(cudaStreamQuery(r.stream) == cudaErrorNotReady);
}

// The first collective is whole, the second one not, which rank 1 alone is told.
void loses_a_connection(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  EXPECT_CUDA(cudaStreamSynchronize(r.stream));
  EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  if (r.rank == 1) EXPECT(error_of(r) == ncclSystemError);
  for (int time = 0; time < 100; ++time) EXPECT(cudaStreamQuery(r.stream) == cudaErrorNotReady);
}

// The first that notices reports and aborts; the parent passes that on.
void processes_disagree() {
  for (const int status : run_processes(2, counts_differ)) {
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) std::abort();
  }
}

void test_mistakes() {
  const auto expect = [](const char* name, const char* text, void (*body)(Rank&)) {
    expect_report(
        name, text, [=] { run_threads(2, body); }, devices(2, true));
  };
  expect("different counts", "AllReduce of 99 float32", counts_differ);
  expect("different types", "AllReduce of 100 bfloat16", types_differ);
  expect("different orders", "ranks disagree", orders_differ);
  expect_report("different counts of processes", "AllReduce of 99 float32", processes_disagree, devices(2));
  expect("buffers that overlap", "overlap", buffers_overlap);
  expect("counts in bytes", "ncclAllReduce: send buffer", counts_are_bytes);
  expect("a send buffer that nobody wrote", "ncclAllReduce: send buffer", sends_what_nobody_wrote);
}

}  // namespace

int main() {
  expect_success("two ranks on one GPU", {}, ranks_on_one_gpu);
  expect_success("a rank that leaves", devices(2), [] { run_threads(2, one_rank_leaves); });
  expect_success("a rank that dies", devices(2), one_rank_dies);
  Environment broken = devices(2);
  broken["CUDA_EMULATION_NCCL_ERROR"] = "1:1";
  expect_success("a connection that breaks", broken, [] { expect_processes_end_well(2, loses_a_connection); });
  test_mistakes();
}
