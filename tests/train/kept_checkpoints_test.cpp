#include "train/kept_checkpoints.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>

#include "core/files.h"
#include "tests/support/catch.h"
#include "tests/support/kernels.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using test::TemporaryFolder;
using Files = std::map<std::string, int64_t>;

// A training run that has nothing but checkpoints: what a step more or less changes is the epoch alone.
class SmallRun {
 public:
  SmallRun(const std::string& folder, int64_t last, int64_t best)
      : folder_(folder), kept_(RunFolder(folder), last, best) {
    carry_out(kept_.find(), {});
  }
  void epoch(int64_t epoch, std::optional<double> metric, bool newest = true) { save({epoch, 0, newest, metric}); }
  void stop(int64_t epoch, int64_t batch) { save({epoch, batch, true, {}}); }
  CheckpointTargets plan(const CheckpointPlace& place) { return kept_.add(place); }
  // Does the first `steps` of it, as a process that is killed.
  void save(const CheckpointPlace& place, size_t steps = SIZE_MAX) {
    CheckpointTargets targets = kept_.add(place);
    const auto cut = [&](auto& list) {
      if (list.size() > steps) list.resize(steps);
      steps -= list.size();
    };
    cut(targets.links);
    cut(targets.files);
    cut(targets.removed);
    carry_out(targets, place);
  }
  // Names below the folder and the epoch each is of; a state in the middle of an epoch is of -epoch.
  Files files() const {
    Files found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
      if (entry.is_directory()) continue;
      const CheckpointEntries entries = read_checkpoint_header(entry.path());
      found[std::filesystem::relative(entry.path(), folder_)] =
          entries.integers.at("epoch") * (entries.integers.at("batch") > 0 ? -1 : 1);
    }
    return found;
  }

 private:
  void carry_out(const CheckpointTargets& targets, const CheckpointPlace& place) {
    CheckpointState state;
    state.integers = {{"epoch", place.epoch}, {"batch", place.batch}};
    if (place.metric) state.numbers = {{KeptCheckpoints::kMetric, *place.metric}};
    Device device;
    CheckpointWriter writer(device);
    writer.save(state, targets);
    writer.finish();
  }

  std::string folder_;
  KeptCheckpoints kept_;
};

constexpr char kLast[] = "checkpoint-last.h5", kBest[] = "checkpoint-best.h5";
std::string last(int64_t epoch) {
  return "checkpoints/last-epoch-00000" + std::to_string(epoch) + ".h5";
}
std::string best(int64_t epoch) {
  return "checkpoints/best-epoch-00000" + std::to_string(epoch) + ".h5";
}

TEST_CASE("by default there are two checkpoints and no folder", "[kept_checkpoints]") {
  TemporaryFolder folder;
  SmallRun run(folder.path(), 1, 1);
  run.epoch(1, 0.3);
  REQUIRE(run.files() == Files{{kLast, 1}, {kBest, 1}});
  run.epoch(2, 0.2);
  run.epoch(3, 0.3);  // as good as the first is no better
  run.stop(3, 5);
  REQUIRE(run.files() == Files{{kLast, -3}, {kBest, 1}});
  run.epoch(4, 0.4);
  REQUIRE(run.files() == Files{{kLast, 4}, {kBest, 4}});
  REQUIRE(!std::filesystem::exists(folder.path("checkpoints")));
}

TEST_CASE("a state that is neither newest nor among the best is not saved", "[kept_checkpoints]") {
  TemporaryFolder folder;
  SmallRun run(folder.path(), 2, 2);
  run.epoch(1, 0.3);
  run.epoch(2, 0.2, false);
  REQUIRE(run.files() == Files{{kLast, 1}, {kBest, 1}, {best(2), 2}});
  REQUIRE(run.plan({.epoch = 3, .newest = false, .metric = 0.1}).empty());
  REQUIRE(run.plan({.epoch = 4, .newest = false, .metric = {}}).empty());
  // The best one is on disk before the newest, which speaks of it.
  REQUIRE(run.plan({.epoch = 5, .metric = 0.25}).files ==
          std::vector<std::string>{folder.path(best(5)), folder.path(kLast)});
}

TEST_CASE("the newest and the best ones stay, under their epochs' names", "[kept_checkpoints]") {
  TemporaryFolder folder;
  SmallRun run(folder.path(), 3, 2);
  run.epoch(1, 0.5);
  run.epoch(2, 0.1);
  run.epoch(3, 0.7);
  REQUIRE(run.files() == Files{{kLast, 3}, {last(2), 2}, {last(1), 1}, {kBest, 3}, {best(1), 1}});
  run.epoch(4, 0.6);
  REQUIRE(run.files() == Files{{kLast, 4}, {last(3), 3}, {last(2), 2}, {kBest, 3}, {best(4), 4}});
  // Every file is one of its own: damage to one harms no other.
  for (const auto& [name, epoch] : run.files()) REQUIRE(std::filesystem::hard_link_count(folder.path(name)) == 1);

  SECTION("a stop inside an epoch takes the newest one's place and is not kept itself") {
    run.stop(4, 2);
    REQUIRE(run.files() == Files{{kLast, -4}, {last(4), 4}, {last(3), 3}, {kBest, 3}, {best(4), 4}});
    SmallRun resumed(folder.path(), 3, 2);
    resumed.stop(4, 3);
    REQUIRE(resumed.files() == Files{{kLast, -4}, {last(4), 4}, {last(3), 3}, {kBest, 3}, {best(4), 4}});
    resumed.epoch(5, 0.65);
    REQUIRE(resumed.files() == Files{{kLast, 5}, {last(4), 4}, {last(3), 3}, {kBest, 3}, {best(5), 5}});
    resumed.stop(5, 0);
    REQUIRE(resumed.files() == Files{{kLast, 5}, {last(4), 4}, {last(3), 3}, {kBest, 3}, {best(5), 5}});
  }
  SECTION("a run that goes on with other numbers keeps as many as they say") {
    SmallRun fewer(folder.path(), 2, 1);
    REQUIRE(fewer.files() == Files{{kLast, 4}, {last(3), 3}, {kBest, 3}});
    SmallRun more(folder.path(), 3, 3);
    REQUIRE(more.files() == Files{{kLast, 4}, {last(3), 3}, {kBest, 3}});
    more.epoch(5, 0.1);
    more.epoch(6, 0.8);
    REQUIRE(more.files() == Files{{kLast, 6}, {last(5), 5}, {last(4), 4}, {kBest, 6}, {best(3), 3}, {best(5), 5}});
  }
  SECTION("a run that goes on from before its best epochs reaches the same files") {
    SmallRun resumed(folder.path(), 3, 2);
    resumed.epoch(3, 0.7);
    resumed.epoch(4, 0.6);
    REQUIRE(resumed.files() == Files{{kLast, 4}, {last(3), 3}, {last(2), 2}, {kBest, 3}, {best(4), 4}});
  }
  SECTION("a damaged one among the best does not count, and the next takes its name") {
    test::write_text(folder.path(kBest), "damaged");
    REQUIRE(SmallRun(folder.path(), 3, 2).files().at(kBest) == 4);
    test::write_text(folder.path(kBest), "damaged");
    SmallRun resumed(folder.path(), 3, 2);
    resumed.epoch(5, 0.1);
    REQUIRE(resumed.files() == Files{{kLast, 5}, {last(4), 4}, {last(3), 3}, {kBest, 5}});
  }
}

TEST_CASE("a kill between any two steps leaves as many good checkpoints as promised", "[kept_checkpoints]") {
  const auto holds = [](const Files& files, const std::string& kind, int64_t epoch) {
    return std::any_of(files.begin(), files.end(), [&](const auto& file) {
      return file.second == epoch && file.first.find(kind) != std::string::npos;
    });
  };
  for (size_t steps = 0; steps < 8; ++steps) {
    TemporaryFolder folder;
    {
      SmallRun run(folder.path(), 2, 2);
      run.epoch(1, 0.5);
      run.epoch(2, 0.1);
      run.epoch(3, 0.4);
      run.save({4, 0, true, 0.6}, steps);
      // Those of before or those of now, whole: files() reads them all.
      const Files files = run.files();
      INFO(steps);
      REQUIRE(((holds(files, "last", 3) && (holds(files, "last", 2) || holds(files, "last", 4)))));
      REQUIRE(((holds(files, "best", 1) && (holds(files, "best", 3) || holds(files, "best", 4)))));
      REQUIRE(files.at(kLast) >= 3);
      REQUIRE(files.at(kBest) != 3);
    }
    SmallRun resumed(folder.path(), 2, 2);
    REQUIRE(resumed.files().size() == 4);
    if (resumed.files().at(kLast) == 3) resumed.epoch(4, 0.6);
    REQUIRE(resumed.files() == Files{{kLast, 4}, {last(3), 3}, {kBest, 4}, {best(1), 1}});
  }
}

TEST_CASE("what stays is the newest and the best of any course of training", "[kept_checkpoints]") {
  for (int64_t seed = 0; seed < 6; ++seed) {
    TemporaryFolder folder;
    const int64_t keep_last = 1 + test::random_int(1, seed, 3), keep_best = 1 + test::random_int(2, seed, 3);
    auto run = std::make_unique<SmallRun>(folder.path(), keep_last, keep_best);
    std::vector<std::pair<double, int64_t>> metrics;  // negative, to sort
    for (int64_t epoch = 1; epoch <= 9; ++epoch) {
      const double metric = static_cast<double>(test::random_int(3, seed * 100 + epoch, 5));
      run->epoch(epoch, metric);
      metrics.emplace_back(-metric, epoch);
      std::sort(metrics.begin(), metrics.end());
      Files expected = {{kLast, epoch}, {kBest, metrics[0].second}};
      for (int64_t back = 1; back < std::min(keep_last, epoch); ++back) expected[last(epoch - back)] = epoch - back;
      for (int64_t rank = 1; rank < std::min(keep_best, epoch); ++rank) {
        expected[best(metrics[static_cast<size_t>(rank)].second)] = metrics[static_cast<size_t>(rank)].second;
      }
      REQUIRE(run->files() == expected);
      if (epoch % 4 == 0) run = std::make_unique<SmallRun>(folder.path(), keep_last, keep_best);
    }
  }
}

}  // namespace
}  // namespace itemloom
