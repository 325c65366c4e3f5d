// Forward and backward of the pieces of a batch as graphs of a GPU: hundreds of launches that are captured once and
// replayed with one call.
//
// A graph holds for pieces of one size. Their kernels have the same grids, and the same addresses, because an arena
// that is asked for the same gives the same. What differs from step to step lies behind these addresses: the piece, and
// the number of the step, which dropout reads there.
//
// The first piece of a size is eager, launch by launch: working memory grows, and cuBLAS chooses. The second one is
// captured and the graph launched, later ones are replayed. Where a bucket of gradients is complete a graph ends,
// because the bucket's exchange with other ranks, which is no part of a graph, is to begin there: a piece is then a few
// graphs.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <map>
#include <vector>

#include "core/device_graph.h"
#include "core/parallel.h"
#include "train/gradient_sync.h"

namespace itemloom {

class PieceGraphs {
 public:
  PieceGraphs(Device& device, GradientSync& sync) : device_(device), sync_(sync) {}

  // All that decides which kernels are launched, and with what.
  struct Size {
    int64_t rows, masked, sequences;
    bool reports;  // whether parameters become ready in it

    auto operator<=>(const Size&) const = default;
  };

  // Has the device do what `tell` tells it for pieces of this size, and gives on to the GradientSync the parameters
  // that `tell` calls ready.
  void run(const Size& size, FunctionRef<void(FunctionRef<void(int parameter)> ready)> tell);

  // Pieces so far, by what became of them, and how many graphs were launched for them.
  struct Counts {
    int64_t eager = 0, captured = 0, replayed = 0, launches = 0;
  };
  const Counts& counts() const { return counts_; }

  // Of so many sizes; the one that was used least recently goes.
  static constexpr size_t kMostSizes = 128;

 private:
  struct Part {
    explicit Part(Device& device) : graph(device) {}
    DeviceGraph graph;
    std::vector<int> ready;  // parameters, once it is launched
  };
  struct Graphs {
    std::deque<Part> parts;  // none before the second piece
    bool had_eager_piece = false;
    int64_t last_use = 0;
  };

  Graphs& graphs_of(const Size& size);
  void launch(Part& part);
  void capture(Graphs& graphs, FunctionRef<void(FunctionRef<void(int)>)> tell);
  void replay(Graphs& graphs);

  Device& device_;
  GradientSync& sync_;
  std::map<Size, Graphs> sizes_;
  Counts counts_;
  int64_t uses_ = 0;
};

}  // namespace itemloom
