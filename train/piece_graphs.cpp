#include "train/piece_graphs.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "core/profile.h"

namespace itemloom {

PieceGraphs::Graphs& PieceGraphs::graphs_of(const Size& size) {
  if (sizes_.size() == kMostSizes && !sizes_.contains(size)) {
    sizes_.erase(std::min_element(sizes_.begin(), sizes_.end(),
                                  [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; }));
  }
  Graphs& graphs = sizes_[size];
  graphs.last_use = ++uses_;
  return graphs;
}

void PieceGraphs::run(const Size& size, FunctionRef<void(FunctionRef<void(int)>)> tell) {
  Graphs& graphs = graphs_of(size);
  if (!graphs.parts.empty() && graphs.parts.front().graph.is_outdated()) graphs.parts.clear();
  if (!graphs.parts.empty()) {
    replay(graphs);
    ++counts_.replayed;
  } else if (graphs.had_eager_piece) {
    capture(graphs, tell);
    ++counts_.captured;
    spdlog::debug("captured pieces of {} rows, {} of them masked, in {} graph{}; {} sizes are known", size.rows,
                  size.masked, graphs.parts.size(), graphs.parts.size() > 1 ? "s" : "", sizes_.size());
  } else {
    tell([this](int parameter) { sync_.parameter_ready(parameter); });
    graphs.had_eager_piece = true;
    ++counts_.eager;
  }
}

void PieceGraphs::launch(Part& part) {
  part.graph.launch();
  ++counts_.launches;
}

// Capturing does nothing, so each part is launched before others build on it.
void PieceGraphs::capture(Graphs& graphs, FunctionRef<void(FunctionRef<void(int)>)> tell) {
  std::deque<Part> parts;
  parts.emplace_back(device_);
  const auto finish_part = [&] {
    parts.back().graph.finish();
    launch(parts.back());
  };
  tell([&](int parameter) {
    parts.back().ready.push_back(parameter);
    const bool ends_part = sync_.completes_bucket(parameter);
    if (ends_part) finish_part();
    sync_.parameter_ready(parameter);
    if (ends_part) parts.emplace_back(device_);
  });
  finish_part();
  graphs.parts = std::move(parts);
}

void PieceGraphs::replay(Graphs& graphs) {
  const ProfileRange range("graphs");
  for (Part& part : graphs.parts) {
    launch(part);
    for (const int parameter : part.ready) sync_.parameter_ready(parameter);
  }
}

}  // namespace itemloom
