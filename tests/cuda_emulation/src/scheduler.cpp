#include "scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "capture.h"

namespace cuda_emulation {
namespace {

// Only NCCL's work waits for somebody else, who may be slow, but not that slow.
constexpr std::chrono::seconds kStuckAfter{600};
// As on a device: a host that is that far ahead of it waits.
constexpr size_t kQueueDepth = 1024;
constexpr std::chrono::microseconds kPollEvery{200};

}  // namespace

WorkMaker simple_work(std::string what, std::function<void()> run) {
  return [what = std::move(what), run = std::move(run)] {
    return Work{what, [run] {
                  run();
                  return Progress::kFinished;
                }};
  };
}

// Never destroyed: streams of static objects may be used while the program ends.
Scheduler& Scheduler::instance() {
  static Scheduler& scheduler = *new Scheduler;
  return scheduler;
}

Scheduler::Scheduler() : random_(settings().seed ^ 0x5EED5EED) {
  constexpr Eagerness kBySeed[] = {Eagerness::kLazy, Eagerness::kLazy, Eagerness::kMixed, Eagerness::kEager};
  eagerness_ = kBySeed[settings().seed % 4];
}

cudaStream_t Scheduler::create(unsigned flags, int device) {
  auto stream = std::make_shared<Stream>();
  stream->flags = flags;
  stream->device = device;
  streams_.push_back(stream);
  return handles_.add(std::move(stream));
}

// The work that is still in the queue runs, as CUDA promises.
void Scheduler::destroy(cudaStream_t handle) {
  handles_.find(handle)->is_destroyed = true;
  handles_.remove(handle);
  forget_destroyed();
}

void Scheduler::forget_destroyed() {
  std::erase_if(streams_, [](const auto& stream) { return stream->is_destroyed && stream->is_idle(); });
}

std::shared_ptr<Stream> Scheduler::legacy(int device) {
  std::shared_ptr<Stream>& stream = legacy_[device];
  if (!stream) {
    stream = std::make_shared<Stream>();
    stream->device = device;
    stream->is_legacy = true;
    streams_.push_back(stream);
  }
  return stream;
}

std::shared_ptr<Stream> Scheduler::find(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return legacy(current_device());
  if (handle == cudaStreamPerThread) report("not emulated", "cudaStreamPerThread");
  return handles_.find(handle);
}

cudaError_t Scheduler::append(const std::shared_ptr<Stream>& stream, const WorkMaker& make, std::vector<Mark> after) {
  if (stream->capture) return add_to_capture(*stream, make);
  if (stream->is_legacy && invalidate_captures_of_blocking_streams(stream->device)) {
    return cudaErrorStreamCaptureImplicit;
  }
  // The legacy stream and the blocking streams of its device wait for each other.
  if (stream->is_legacy) {
    for (const auto& other : streams_) {
      if (other->device == stream->device && other->is_blocking() && !other->is_idle()) {
        after.push_back({other, other->issued});
      }
    }
  } else if (stream->is_blocking()) {
    const auto before = legacy(stream->device);
    if (!before->is_idle()) after.push_back({before, before->issued});
  }
  stream->queue.push_back({make(), ++stream->issued, std::move(after)});
  changed_.notify_all();
  run_some();
  while (stream->queue.size() > kQueueDepth && run_one()) {
  }
  return cudaSuccess;
}

void Scheduler::run_some() {
  reorder_every_step_ = true;
  if (eagerness_ == Eagerness::kLazy || (eagerness_ == Eagerness::kMixed && random_.below(3) != 0)) return;
  const DeviceAccess access;
  uint32_t steps = eagerness_ == Eagerness::kEager ? UINT32_MAX : random_.below(4);
  while (steps-- > 0 && run_one()) {
  }
}

void Scheduler::shuffle_streams() {
  for (size_t left = streams_.size(); left > 1; --left) {
    std::swap(streams_[left - 1], streams_[random_.below(static_cast<uint32_t>(left))]);
  }
}

bool Scheduler::run_one() {
  if (reorder_every_step_) shuffle_streams();
  for (const auto& stream : streams_) {
    if (!step(stream)) continue;
    forget_destroyed();
    return true;
  }
  return false;
}

void Scheduler::run_for_query() {
  ++waiting_threads_;
  run_one();
  --waiting_threads_;
}

bool Scheduler::step(const std::shared_ptr<Stream>& stream) {
  if (stream->queue.empty()) return false;
  Operation& first = stream->queue.front();
  if (!std::all_of(first.after.begin(), first.after.end(), [](const Mark& mark) { return mark.reached(); })) {
    return false;
  }
  const Progress progress = first.work.advance();
  if (progress == Progress::kWaiting) return false;
  if (progress == Progress::kFinished) {
    stream->done = first.number;
    stream->queue.pop_front();
  }
  changed_.notify_all();
  return true;
}

// One third of the times the streams take random turns. Else they go on in one fixed order, so that one of them comes
// as late or as early as it can; and often the one that is waited for comes first, before what it should have waited
// for.
void Scheduler::choose_order(const std::shared_ptr<Stream>& waited_for) {
  shuffle_streams();
  reorder_every_step_ = random_.below(3) == 0;
  if (!waited_for || random_.below(2) == 0) return;
  const auto place = std::find(streams_.begin(), streams_.end(), waited_for);
  if (place != streams_.end()) std::rotate(streams_.begin(), place, place + 1);
}

void Scheduler::run_until(Lock& lock, const std::function<bool()>& condition, const char* what,
                          const std::shared_ptr<Stream>& waited_for) {
  choose_order(waited_for);
  ++waiting_threads_;
  // Opening the memory for each piece of work takes long when there are many allocations.
  const DeviceAccess access;
  auto last_step = std::chrono::steady_clock::now();
  while (!condition()) {
    if (run_one()) {
      last_step = std::chrono::steady_clock::now();
      continue;
    }
    changed_.wait_for(lock, kPollEvery);
    if (std::chrono::steady_clock::now() - last_step > kStuckAfter) report_stuck(what);
  }
  --waiting_threads_;
}

void Scheduler::wait_for(Lock& lock, const std::shared_ptr<Stream>& stream) {
  const Mark mark = {stream, stream->issued};
  wait_for(lock, mark, "a stream");
}

void Scheduler::wait_for(Lock& lock, const Mark& mark, const char* what) {
  run_until(
      lock, [&] { return mark.reached(); }, what, mark.stream);
}

void Scheduler::wait_for_device(Lock& lock, int device) {
  std::vector<Mark> marks;
  for (const auto& stream : streams_) {
    if (stream->device == device) marks.push_back({stream, stream->issued});
  }
  const auto all_reached = [&] {
    return std::all_of(marks.begin(), marks.end(), [](const Mark& mark) { return mark.reached(); });
  };
  run_until(lock, all_reached, "a device");
}

void Scheduler::report_stuck(const char* what) const {
  std::string message = std::string("a host thread waits for ") + what + " and nothing can go on:";
  for (const auto& stream : streams_) {
    if (stream->queue.empty()) continue;
    message +=
        "\n  a stream of device " + std::to_string(stream->device) + " stands at " + stream->queue.front().work.what;
  }
  report("streams are stuck", message);
}

cudaError_t enqueue_work(cudaStream_t handle, const WorkMaker& make) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  return remember_error(scheduler.append(stream, make));
}

}  // namespace cuda_emulation
