// Graphs and the capture of streams into them.
#pragma once

#include <thread>
#include <vector>

#include "scheduler.h"

namespace cuda_emulation {

struct Graph {
  struct Node {
    WorkMaker make;
    std::vector<size_t> after;  // nodes that come first
  };
  std::vector<Node> nodes;
};

struct Capture {
  Graph graph;
  Stream* origin;  // where it began and has to end
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool is_invalidated = false;
};

// All are called with the scheduler's lock held.

cudaError_t add_to_capture(Stream& stream, const WorkMaker& make);

// Calls of each of these kinds spoil the captures that they touch, as CUDA specifies; the call itself is refused.
bool invalidate_captures_of_blocking_streams(int device);  // work for the legacy stream
bool invalidate_captures_of_device(int device);            // a wait for the whole device
bool invalidate_capture_of(const Stream& stream);          // a wait for, or a question about, a captured stream
bool invalidate_captures_by_unsafe_call();                 // cudaMalloc and others that could wait

}  // namespace cuda_emulation
