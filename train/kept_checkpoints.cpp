#include "train/kept_checkpoints.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "core/check.h"

namespace itemloom {
namespace {

// The epochs of the files in a folder that have the name `name_of(epoch)`, the newest first.
std::vector<int64_t> epochs_in(const std::string& folder, const std::function<std::string(int64_t)>& name_of) {
  std::vector<int64_t> epochs;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const size_t dash = name.rfind('-');
    if (dash == std::string::npos) continue;
    const int64_t epoch = std::strtoll(name.c_str() + dash + 1, nullptr, 10);
    if (std::filesystem::path(name_of(epoch)).filename() == name) epochs.push_back(epoch);
  }
  std::sort(epochs.rbegin(), epochs.rend());
  return epochs;
}

// Its header, or nothing and a warning when it is damaged.
std::optional<CheckpointEntries> header_if_whole(const std::string& path) {
  try {
    return read_checkpoint_header(path);
  } catch (const Error& error) {
    spdlog::warn("not counted among the best checkpoints: {}", error.what());
    return std::nullopt;
  }
}

}  // namespace

KeptCheckpoints::KeptCheckpoints(const RunFolder& folder, int64_t last, int64_t best)
    : folder_(folder), keep_last_(last), keep_best_(best) {}

// Without a newest one the run begins anew, and what an older one has left is left alone until its names are taken.
void KeptCheckpoints::find_newest() {
  if (!std::filesystem::exists(folder_.last_checkpoint())) return;
  const CheckpointEntries entries = read_checkpoint_header(folder_.last_checkpoint());
  const Kept newest = {
      .epoch = entries.integers.at("epoch"), .batch = entries.integers.at("batch"), .path = folder_.last_checkpoint()};
  newest_.push_back(newest);
  const auto name_of = [this](int64_t epoch) { return folder_.kept_last_checkpoint(epoch); };
  for (const int64_t epoch : epochs_in(folder_.kept_checkpoints(), name_of)) {
    // A kill may have come between giving it that name and replacing it.
    if (newest.batch == 0 && epoch == newest.epoch) {
      surplus_.push_back(name_of(epoch));
    } else {
      newest_.push_back({.epoch = epoch, .path = name_of(epoch)});
    }
  }
}

void KeptCheckpoints::find_best() {
  std::vector<std::string> files;
  if (std::filesystem::exists(folder_.best_checkpoint())) files.push_back(folder_.best_checkpoint());
  const auto name_of = [this](int64_t epoch) { return folder_.kept_best_checkpoint(epoch); };
  for (const int64_t epoch : epochs_in(folder_.kept_checkpoints(), name_of)) files.push_back(name_of(epoch));
  for (const std::string& file : files) {
    const std::optional<CheckpointEntries> entries = header_if_whole(file);
    if (!entries) continue;
    const auto same_epoch = [&](const Kept& one) { return one.epoch == entries->integers.at("epoch"); };
    if (std::any_of(best_.begin(), best_.end(), same_epoch)) {
      surplus_.push_back(file);
      continue;
    }
    // A checkpoint without a metric of its own is from before several were kept, when it was the best by itself.
    const auto metric = entries->numbers.find(kMetric);
    best_.push_back({.epoch = entries->integers.at("epoch"),
                     .metric = metric == entries->numbers.end() ? entries->numbers.at("best_metric") : metric->second,
                     .path = file});
  }
  std::sort(best_.begin(), best_.end(), [](const Kept& a, const Kept& b) {
    return a.metric != b.metric ? a.metric > b.metric : a.epoch < b.epoch;
  });
}

CheckpointTargets KeptCheckpoints::find() {
  find_newest();
  find_best();
  return settle();
}

CheckpointTargets KeptCheckpoints::add(const CheckpointPlace& place) {
  const auto drop = [this](std::vector<Kept>& kept, const auto& replaced) {
    for (const Kept& one : kept) {
      if (replaced(one)) surplus_.push_back(one.path);
    }
    std::erase_if(kept, replaced);
  };
  const Kept added = {.epoch = place.epoch, .batch = place.batch, .metric = place.metric.value_or(0), .path = ""};
  if (place.newest) {
    drop(newest_, [&](const Kept& one) { return one.batch > 0 || (place.batch == 0 && one.epoch == place.epoch); });
    newest_.insert(newest_.begin(), added);
  }
  if (place.metric) {
    drop(best_, [&](const Kept& one) { return one.epoch == place.epoch; });
    const auto worse = [&](const Kept& one) { return one.metric < added.metric; };
    best_.insert(std::find_if(best_.begin(), best_.end(), worse), added);
  }
  return settle();
}

void KeptCheckpoints::settle(std::vector<Kept>& kept, int64_t count, const std::string& first, Names others,
                             CheckpointTargets& targets) {
  for (int64_t rank = 0; rank < static_cast<int64_t>(kept.size()); ++rank) {
    Kept& one = kept[static_cast<size_t>(rank)];
    const std::string name = rank == 0 ? first : (folder_.*others)(one.epoch);
    if (one.path == name && rank < count) continue;
    if (!one.path.empty()) surplus_.push_back(one.path);
    if (rank >= count) continue;
    if (one.path.empty()) {
      targets.files.push_back(name);
    } else {
      targets.links.push_back({.from = one.path, .to = name});
    }
    one.path = name;
  }
  if (static_cast<int64_t>(kept.size()) > count) kept.resize(static_cast<size_t>(count));
}

CheckpointTargets KeptCheckpoints::settle() {
  CheckpointTargets targets;
  // The best ones come first: a newest checkpoint says which epoch is best, and that one is to be there by then.
  settle(best_, keep_best_, folder_.best_checkpoint(), &RunFolder::kept_best_checkpoint, targets);
  settle(newest_, keep_last_, folder_.last_checkpoint(), &RunFolder::kept_last_checkpoint, targets);
  for (const std::string& path : surplus_) {
    const auto has_path = [&](const Kept& one) { return one.path == path; };
    const bool kept =
        std::any_of(best_.begin(), best_.end(), has_path) || std::any_of(newest_.begin(), newest_.end(), has_path);
    if (!kept) targets.removed.push_back(path);
  }
  surplus_.clear();
  return targets;
}

}  // namespace itemloom
