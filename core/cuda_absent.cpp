// Stands in the place of core/cuda/ in a build without CUDA.
#include "core/check.h"
#include "core/communicator.h"
#include "core/cuda/backend.h"

namespace itemloom::cuda_backend {
namespace {

[[noreturn]] void refuse() {
  fail(
      "device is cuda, but this program was built without CUDA; take device cpu, or build it with "
      "scripts/build.sh cuda");
}

}  // namespace

void check_gpu(int) {
  refuse();
}
CudaContext* make_context(int) {
  refuse();
}
void reserve_scratch(CudaContext&, int64_t) {
  refuse();
}
int64_t scratch_size(const CudaContext&) {
  refuse();
}
std::byte* allocate(int64_t) {
  refuse();
}
std::byte* allocate_pinned(int64_t) {
  refuse();
}
void copy(CudaContext&, const void*, void*, int64_t, Direction) {
  refuse();
}
void gather_from_host(CudaContext&, std::span<const HostPiece>, std::byte*) {
  refuse();
}
void zero(CudaContext&, void*, int64_t) {
  refuse();
}
void synchronize(CudaContext&) {
  refuse();
}
CUevent_st* make_event() {
  refuse();
}
void set_event(CudaContext&, CUevent_st*) {
  refuse();
}
void wait_for_event(CudaContext&, CUevent_st*) {
  refuse();
}
double seconds_between(CUevent_st*, CUevent_st*) {
  refuse();
}
void begin_graph(CudaContext&) {
  refuse();
}
CUgraphExec_st* end_graph(CudaContext&) {
  refuse();
}
void launch_graph(CudaContext&, CUgraphExec_st*) {
  refuse();
}
int64_t working_memory_moves(const CudaContext&) {
  refuse();
}
bool waits_for_kernels(const CudaContext&) {
  refuse();
}
void all_reduce_sum(CudaContext&, Communicator&, Vector<double>) {
  refuse();
}
std::unique_ptr<ExchangeBuffer> make_exchange_buffer(CudaContext&, Communicator&, int64_t) {
  refuse();
}
std::string gpu_id(const CudaContext&) {
  refuse();
}
// There is nothing to give back.
void delete_context(CudaContext*) {}
void free(std::byte*) {}
void free_pinned(std::byte*) {}
void delete_event(CUevent_st*) {}
void delete_graph(CUgraphExec_st*) {}

std::string describe() {
  return "not built";
}

std::string nccl_version() {
  return "not built";
}

}  // namespace itemloom::cuda_backend
