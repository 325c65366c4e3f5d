// Work of a GPU that is launched as a whole.
#pragma once

#include <cstdint>
#include <memory>

#include "core/device.h"

namespace itemloom {

// What a GPU is told once and does many times, each time for the price of one launch. Kernels keep the arguments that
// they were told at first.
class DeviceGraph {
 public:
  // From here on until finish() what this thread tells the device is recorded instead of done: kernels, zeroing and
  // copies within the device. Copies from the host are refused, and so are kernels that need more working memory than
  // any before them.
  explicit DeviceGraph(Device& device);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  void finish();
  void launch();
  // Working memory that its kernels know has moved: it must not be launched any more.
  bool is_outdated() const;

 private:
  struct DeleteGraph {
    void operator()(CUgraphExec_st* graph) const { cuda_backend::delete_graph(graph); }
  };
  CudaContext& context_;
  int64_t working_memory_moves_;  // before it
  bool recording_ = true;
  std::unique_ptr<CUgraphExec_st, DeleteGraph> graph_;
};

}  // namespace itemloom
