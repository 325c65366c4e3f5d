// NCCL between threads of one process and between processes: values, order, asynchrony.
#include <cuda_bf16.h>
#include <unistd.h>

#include <cstring>

#include "nccl_ranks.h"

using namespace host_test;

namespace {

// More than one round of the emulation, and no multiple of one.
constexpr size_t kMany = 300'001;

// Whole numbers, so that sums are exact.
double value_at(int rank, size_t index) {
  return static_cast<double>((index * 7 + static_cast<size_t>(rank) * 3) % 11);
}

template <class Value>
Value from_double(double value) {
  return static_cast<Value>(value);
}
template <>
__nv_bfloat16 from_double(double value) {
  return __float2bfloat16(static_cast<float>(value));
}

template <class Value>
struct Buffer {
  Value* device = nullptr;
  size_t count;

  explicit Buffer(size_t count) : count(count) {
    void* memory = nullptr;
    EXPECT_CUDA(cudaMalloc(&memory, count * sizeof(Value)));
    device = static_cast<Value*>(memory);
  }
  // With the values of a rank.
  Buffer(size_t count, int rank, cudaStream_t stream) : Buffer(count) {
    std::vector<Value> values(count);
    for (size_t index = 0; index < count; ++index) values[index] = from_double<Value>(value_at(rank, index));
    EXPECT_CUDA(cudaMemcpyAsync(device, values.data(), count * sizeof(Value), cudaMemcpyHostToDevice, stream));
  }
  template <class Expected>
  void expect(cudaStream_t stream, Expected expected) const {
    std::vector<Value> values(count);
    EXPECT_CUDA(cudaMemcpyAsync(values.data(), device, count * sizeof(Value), cudaMemcpyDeviceToHost, stream));
    for (size_t index = 0; index < count; ++index) {
      const Value value = from_double<Value>(expected(index));
      EXPECT(std::memcmp(&value, &values[index], sizeof value) == 0);
    }
  }
};

double sum_at(int ranks, size_t index) {
  double sum = 0;
  for (int rank = 0; rank < ranks; ++rank) sum += value_at(rank, index);
  return sum;
}

template <class Value>
void all_collectives(Rank& r, ncclDataType_t type, size_t count) {
  const Buffer<Value> send(count, r.rank, r.stream), receive(count);
  EXPECT_NCCL(ncclAllReduce(send.device, receive.device, count, type, ncclSum, r.communicator, r.stream));
  receive.expect(r.stream, [&](size_t index) { return sum_at(r.ranks, index); });
  const Buffer<Value> mine(count, r.rank, r.stream), other(count);
  EXPECT_NCCL(ncclBroadcast(mine.device, other.device, count, type, r.ranks - 1, r.communicator, r.stream));
  other.expect(r.stream, [&](size_t index) { return value_at(r.ranks - 1, index); });
  EXPECT_NCCL(ncclReduce(mine.device, other.device, count, type, ncclSum, 0, r.communicator, r.stream));
  other.expect(r.stream,
               [&](size_t index) { return r.rank == 0 ? sum_at(r.ranks, index) : value_at(r.ranks - 1, index); });
}

void collectives_of_all_types(Rank& r) {
  all_collectives<float>(r, ncclFloat32, 1000);
  all_collectives<double>(r, ncclFloat64, 7);
  all_collectives<__nv_bfloat16>(r, ncclBfloat16, 1000);
  r.finish();
}

void collectives_of_many_rounds(Rank& r) {
  all_collectives<float>(r, ncclFloat32, kMany);
  r.finish();
}

void collectives_in_place(Rank& r) {
  constexpr size_t kCount = 500;
  const Buffer<float> all(kCount, r.rank, r.stream), one(kCount, r.rank, r.stream), same(kCount, r.rank, r.stream);
  EXPECT_NCCL(ncclAllReduce(all.device, all.device, kCount, ncclFloat32, ncclSum, r.communicator, r.stream));
  all.expect(r.stream, [&](size_t index) { return sum_at(r.ranks, index); });
  EXPECT_NCCL(ncclReduce(one.device, one.device, kCount, ncclFloat32, ncclSum, 0, r.communicator, r.stream));
  one.expect(r.stream, [&](size_t index) { return r.rank == 0 ? sum_at(r.ranks, index) : value_at(r.rank, index); });
  EXPECT_NCCL(ncclBroadcast(same.device, same.device, kCount, ncclFloat32, r.ranks - 1, r.communicator, r.stream));
  same.expect(r.stream, [&](size_t index) { return value_at(r.ranks - 1, index); });
  r.finish();
}

// Sums of floats that round: every rank gets the bits of the sum in rank order.
void sums_in_the_order_of_ranks(Rank& r) {
  constexpr size_t kCount = 1000;
  std::vector<float> values(kCount), expected(kCount);
  const auto part = [](int rank, size_t index) {
    return 1.f / static_cast<float>(1 + index + 7 * static_cast<size_t>(rank));
  };
  for (size_t index = 0; index < kCount; ++index) {
    values[index] = part(r.rank, index);
    expected[index] = part(0, index);
    for (int rank = 1; rank < r.ranks; ++rank) expected[index] += part(rank, index);
  }
  float* device = upload(values);
  EXPECT_NCCL(ncclAllReduce(device, device, kCount, ncclFloat32, ncclSum, r.communicator, r.stream));
  EXPECT_CUDA(cudaStreamSynchronize(r.stream));
  EXPECT(download(device, kCount) == expected);
  r.finish();
}

// The gradients come from another stream, for which nobody waits.
void reduces_what_is_not_ready(Rank& r) {
  cudaStream_t compute;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
  float* gradients = upload(std::vector<float>(100, 0));
  EXPECT_CUDA(cudaMemsetAsync(gradients, 1, 400, compute));
  EXPECT_NCCL(ncclAllReduce(gradients, gradients, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  EXPECT_CUDA(cudaStreamSynchronize(r.stream));
  float ready = 0;
  std::memset(&ready, 1, sizeof ready);
  EXPECT(download(gradients, 100)[99] == 2 * ready);
  r.finish();
}

// Rank 0's host hands its work over and then waits for rank 1 by other means, as in MPI_Barrier; rank 1 waits for the
// collective first.
void hosts_that_wait_for_each_other(Rank& r, const int* pipe_ends) {
  float* values = upload(std::vector<float>(kMany, 1));
  for (int turn = 0; turn < 3; ++turn) {
    EXPECT_NCCL(ncclAllReduce(values, values, kMany, ncclFloat32, ncclSum, r.communicator, r.stream));
  }
  char message = 'x';
  if (r.rank == 0) {
    EXPECT(read(pipe_ends[0], &message, 1) == 1);
  } else {
    EXPECT_CUDA(cudaStreamSynchronize(r.stream));
    EXPECT(write(pipe_ends[1], &message, 1) == 1);
  }
  r.finish();
  EXPECT(download(values, 1)[0] == 8);
}

void a_graph_with_a_collective(Rank& r) {
  float* values = upload(std::vector<float>(100, 1));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  EXPECT_CUDA(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal));
  EXPECT_NCCL(ncclAllReduce(values, values, 100, ncclFloat32, ncclSum, r.communicator, r.stream));
  EXPECT_CUDA(cudaStreamEndCapture(r.stream, &graph));
  EXPECT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  for (int turn = 0; turn < 3; ++turn) EXPECT_CUDA(cudaGraphLaunch(executable, r.stream));
  EXPECT_CUDA(cudaStreamSynchronize(r.stream));
  EXPECT(download(values, 100)[99] == 8);
  r.finish();
}

void one_thread_with_two_ranks() {
  ncclUniqueId id;
  ncclComm_t communicators[2];
  float* values[2];
  EXPECT_NCCL(ncclGetUniqueId(&id));
  EXPECT_NCCL(ncclGroupStart());
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_CUDA(cudaSetDevice(rank));
    values[rank] = upload(std::vector<float>(10, static_cast<float>(rank + 1)));
    EXPECT_NCCL(ncclCommInitRank(&communicators[rank], 2, id, rank));
  }
  EXPECT_NCCL(ncclGroupEnd());
  EXPECT_NCCL(ncclGroupStart());
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_NCCL(ncclAllReduce(values[rank], values[rank], 10, ncclFloat32, ncclSum, communicators[rank], nullptr));
  }
  EXPECT_NCCL(ncclGroupEnd());
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_CUDA(cudaSetDevice(rank));
    EXPECT(download(values[rank], 10)[9] == 3);
    EXPECT_NCCL(ncclCommDestroy(communicators[rank]));
  }
  EXPECT(ncclCommDestroy(communicators[0]) == ncclInvalidArgument);
}

void test_threads() {
  for (const int ranks : {1, 2, 3}) {
    for (const int seed : {1, 2, 3}) {
      expect_success("collectives of threads", devices(ranks, true, seed),
                     [&] { run_threads(ranks, collectives_of_all_types); });
    }
    expect_success("many rounds of threads", devices(ranks), [&] { run_threads(ranks, collectives_of_many_rounds); });
    expect_success("in place", devices(ranks, true), [&] { run_threads(ranks, collectives_in_place); });
    expect_success("sums in the order of ranks", devices(ranks),
                   [&] { run_threads(ranks, sums_in_the_order_of_ranks); });
  }
  expect_success("graphs", devices(2), [] { run_threads(2, a_graph_with_a_collective); });
  expect_success("one thread with two ranks", devices(2), one_thread_with_two_ranks);
  expect_found(
      "a collective that does not wait for its data", [] { run_threads(2, reduces_what_is_not_ready); }, devices(2));
}

void test_processes() {
  for (const int seed : {1, 2, 3}) {
    expect_success("collectives of processes", devices(2, false, seed),
                   [] { expect_processes_end_well(2, collectives_of_all_types); });
  }
  expect_success("many rounds of processes", devices(3),
                 [] { expect_processes_end_well(3, collectives_of_many_rounds); });
  for (const int seed : {1, 2, 3}) {
    expect_success("hosts that wait for each other", devices(2, false, seed), [] {
      int ends[2];
      EXPECT(pipe(ends) == 0);
      expect_processes_end_well(2, [&](Rank& r) { hosts_that_wait_for_each_other(r, ends); });
    });
  }
}

}  // namespace

int main() {
  test_threads();
  test_processes();
}
