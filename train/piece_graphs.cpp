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

void PieceGraphs::run(const Size& size, bool reports, FunctionRef<void(FunctionRef<void(int)>)> tell) {
  Graphs& graphs = graphs_of(size);
  Parts& parts = reports ? graphs.reporting : graphs.silent;
  if (!parts.empty() && parts.front().graph.is_outdated()) parts.clear();
  if (!parts.empty()) {
    replay(parts);
    ++counts_.replayed;
  } else if (graphs.had_eager_piece) {
    parts = capture(tell);
    ++counts_.captured;
    spdlog::debug("captured pieces of {} rows, {} of them masked, in {} graph{}; {} sizes are known", size.rows,
                  size.masked, parts.size(), parts.size() > 1 ? "s" : "", sizes_.size());
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
PieceGraphs::Parts PieceGraphs::capture(FunctionRef<void(FunctionRef<void(int)>)> tell) {
  Parts parts;
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
  return parts;
}

void PieceGraphs::replay(Parts& parts) {
  const ProfileRange range("graphs");
  for (Part& part : parts) {
    launch(part);
    for (const int parameter : part.ready) sync_.parameter_ready(parameter);
  }
}

}  // namespace itemloom
