#include "counters.h"

#include <atomic>

#include "scheduler.h"

namespace cuda_emulation {
namespace {

std::atomic<int64_t> synchronisations{0};
std::atomic<int64_t> waits_beside_work{0};
std::atomic<int64_t> idle_queries{0};
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> launches{0};

}  // namespace

int64_t host_synchronisations() {
  return synchronisations;
}

int64_t waits_with_work_behind() {
  return waits_beside_work;
}

int64_t queries_without_work_behind() {
  return idle_queries;
}

int64_t device_allocations() {
  return allocations;
}

int64_t kernel_launches() {
  return launches;
}

void count_host_synchronisation() {
  ++synchronisations;
}

void count_event_wait(const Mark& mark) {
  count_host_synchronisation();
  if (mark.has_work_behind()) ++waits_beside_work;
}

void count_event_query(const Mark& mark) {
  if (!mark.reached() && !mark.has_work_behind()) ++idle_queries;
}

void count_device_allocation() {
  ++allocations;
}

// What the device side enqueues are kernels. The work is made once for every launch.
cudaError_t enqueue(cudaStream_t handle, const char* what, std::function<void()> run) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  // Copies may go through the stream of any device, kernels only through one of the current device.
  if (!stream || stream->device != current_device()) return remember_error(cudaErrorInvalidResourceHandle);
  const WorkMaker make = simple_work(what, std::move(run));
  return remember_error(scheduler.append(stream, [make] {
    ++launches;
    return make();
  }));
}

}  // namespace cuda_emulation
