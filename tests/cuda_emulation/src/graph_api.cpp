// The capture of streams into graphs, and the launch of graphs.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "capture.h"
#include "handles.h"

namespace cuda_emulation {
namespace {

struct GraphExec {
  Graph graph;
  Mark last_launch;  // launches of one executable graph follow each other
  uint64_t launches = 0;
};

HandleTable<Graph, cudaGraph_t>& graphs() {
  static auto& table = *new HandleTable<Graph, cudaGraph_t>;
  return table;
}

HandleTable<GraphExec, cudaGraphExec_t>& executables() {
  static auto& table = *new HandleTable<GraphExec, cudaGraphExec_t>;
  return table;
}

// One launch: its nodes run in any order that their edges allow.
class GraphRun {
 public:
  GraphRun(const Graph& graph, uint64_t seed) : random_(seed) {
    for (const Graph::Node& node : graph.nodes) nodes_.push_back({node.make(), node.after});
  }

  Progress advance() {
    const size_t count = nodes_.size();
    const size_t begin = count == 0 ? 0 : random_.below(static_cast<uint32_t>(count));
    for (size_t turn = 0; turn < count; ++turn) {
      Node& node = nodes_[(begin + turn) % count];
      if (node.is_finished || !may_run(node)) continue;
      const Progress progress = node.work.advance();
      if (progress == Progress::kWaiting) continue;
      if (progress == Progress::kFinished) {
        node.is_finished = true;
        ++finished_;
      }
      return finished_ == count ? Progress::kFinished : Progress::kAdvanced;
    }
    return finished_ == count ? Progress::kFinished : Progress::kWaiting;
  }

 private:
  struct Node {
    Work work;
    std::vector<size_t> after;
    bool is_finished = false;
  };

  bool may_run(const Node& node) const {
    return std::all_of(node.after.begin(), node.after.end(), [&](size_t index) { return nodes_[index].is_finished; });
  }

  std::vector<Node> nodes_;
  size_t finished_ = 0;
  Random random_;
};

// All captures that are going on, through the streams that are in them.
template <class Predicate>
bool invalidate_captures(Predicate is_touched) {
  bool any = false;
  for (const auto& stream : Scheduler::instance().streams()) {
    if (!stream->capture || !is_touched(*stream)) continue;
    stream->capture->is_invalidated = true;
    any = true;
  }
  return any;
}

// Whether everything that was captured is waited for by what the origin did last.
bool is_joined(const Graph& graph, const std::vector<size_t>& tail) {
  std::vector<bool> reached(graph.nodes.size(), false);
  std::vector<size_t> open = tail;
  size_t count = 0;
  while (!open.empty()) {
    const size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    ++count;
    open.insert(open.end(), graph.nodes[node].after.begin(), graph.nodes[node].after.end());
  }
  return count == graph.nodes.size();
}

WorkMaker graph_work(const std::shared_ptr<GraphExec>& executable) {
  return [executable] {
    const uint64_t seed = settings().seed ^ (++executable->launches << 20);
    const auto run = std::make_shared<GraphRun>(executable->graph, seed);
    return Work{"a graph", [run] { return run->advance(); }};
  };
}

cudaError_t end_capture(Stream& stream, Graph& graph) {
  const std::shared_ptr<Capture> capture = stream.capture;
  if (!capture) return cudaErrorIllegalState;
  if (capture->origin != &stream) return cudaErrorStreamCaptureUnmatched;
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    return cudaErrorStreamCaptureWrongThread;
  }
  const std::vector<size_t> tail = stream.capture_tail;
  for (const auto& other : Scheduler::instance().streams()) {
    if (other->capture != capture) continue;
    other->capture = nullptr;
    other->capture_tail.clear();
  }
  if (capture->is_invalidated) return cudaErrorStreamCaptureInvalidated;
  if (!is_joined(capture->graph, tail)) return cudaErrorStreamCaptureUnjoined;
  graph = std::move(capture->graph);
  return cudaSuccess;
}

}  // namespace

cudaError_t add_to_capture(Stream& stream, const WorkMaker& make) {
  if (stream.capture->is_invalidated) return cudaErrorStreamCaptureInvalidated;
  std::vector<Graph::Node>& nodes = stream.capture->graph.nodes;
  nodes.push_back({make, stream.capture_tail});
  stream.capture_tail = {nodes.size() - 1};
  return cudaSuccess;
}

bool invalidate_captures_of_blocking_streams(int device) {
  return invalidate_captures([&](const Stream& stream) { return stream.device == device && stream.is_blocking(); });
}

bool invalidate_captures_of_device(int device) {
  return invalidate_captures([&](const Stream& stream) { return stream.device == device; });
}

bool invalidate_capture_of(const Stream& captured) {
  return invalidate_captures([&](const Stream& stream) { return &stream == &captured; });
}

bool invalidate_captures_by_unsafe_call() {
  return invalidate_captures([](const Stream& stream) {
    const Capture& capture = *stream.capture;
    return capture.mode == cudaStreamCaptureModeGlobal ||
           (capture.mode == cudaStreamCaptureModeThreadLocal && capture.thread == std::this_thread::get_id());
  });
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  if (stream->is_legacy) return remember_error(cudaErrorStreamCaptureUnsupported);
  if (stream->capture) return remember_error(cudaErrorIllegalState);
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream.get();
  stream->capture->mode = mode;
  stream->capture->thread = std::this_thread::get_id();
  stream->capture_tail.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph_handle) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  if (!graph_handle) return remember_error(cudaErrorInvalidValue);
  *graph_handle = nullptr;
  auto graph = std::make_shared<Graph>();
  const cudaError_t status = end_capture(*stream, *graph);
  if (status == cudaSuccess) *graph_handle = graphs().add(std::move(graph));
  return remember_error(status);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  Scheduler& scheduler = Scheduler::instance();
  const Lock lock = scheduler.lock();
  const auto stream = scheduler.find(handle);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  if (!status) return remember_error(cudaErrorInvalidValue);
  *status = !stream->capture                  ? cudaStreamCaptureStatusNone
            : stream->capture->is_invalidated ? cudaStreamCaptureStatusInvalidated
                                              : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable_handle, cudaGraph_t graph_handle,
                                 unsigned long long flags) {
  const Lock lock = Scheduler::instance().lock();
  const auto graph = graphs().find(graph_handle);
  if (!graph || !executable_handle) return remember_error(cudaErrorInvalidValue);
  if (flags != 0) report("not emulated", "flags of cudaGraphInstantiate");
  auto executable = std::make_shared<GraphExec>();
  executable->graph = *graph;
  *executable_handle = executables().add(std::move(executable));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable_handle, cudaStream_t stream_handle) {
  Scheduler& scheduler = Scheduler::instance();
  Lock lock = scheduler.lock();
  const auto executable = executables().find(executable_handle);
  const auto stream = scheduler.find(stream_handle);
  if (!executable) return remember_error(cudaErrorInvalidValue);
  if (!stream) return remember_error(cudaErrorInvalidResourceHandle);
  const Mark after = executable->last_launch;
  if (!stream->capture) executable->last_launch = {stream, stream->issued + 1};
  return remember_error(scheduler.append(stream, graph_work(executable), {after}));
}

// A launch that is still to run keeps what it needs.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Lock lock = Scheduler::instance().lock();
  return executables().remove(executable) ? cudaSuccess : remember_error(cudaErrorInvalidValue);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Lock lock = Scheduler::instance().lock();
  return graphs().remove(graph) ? cudaSuccess : remember_error(cudaErrorInvalidValue);
}

}  // extern "C"
