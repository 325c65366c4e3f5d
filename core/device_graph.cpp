#include "core/device_graph.h"

#include "core/check.h"

namespace itemloom {

DeviceGraph::DeviceGraph(Device& device)
    : context_(*device.cuda()), working_memory_moves_(cuda_backend::working_memory_moves(context_)) {
  cuda_backend::begin_graph(context_);
}

DeviceGraph::~DeviceGraph() {
  if (!recording_) return;
  // What was being recorded has failed, and that error is the one to tell.
  try {
    finish();
  } catch (const Error&) {
  }
}

void DeviceGraph::finish() {
  recording_ = false;
  graph_.reset(cuda_backend::end_graph(context_));
}

void DeviceGraph::launch() {
  CHECK(graph_ && !is_outdated(), "a graph is launched that was not finished, or whose working memory has moved");
  cuda_backend::launch_graph(context_, graph_.get());
}

bool DeviceGraph::is_outdated() const {
  return working_memory_moves_ != cuda_backend::working_memory_moves(context_);
}

}  // namespace itemloom
