#include "train/checkpoint_writer.h"

#include <filesystem>
#include <vector>

#include "core/files.h"
#include "tests/support/catch.h"
#include "tests/support/full_disk.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using Catch::Matchers::Contains;
using test::TemporaryFolder;

// A state whose first tensor is large enough for a write to take a while.
struct Large {
  explicit Large(float value, int64_t rows = 20000) : table(static_cast<size_t>(rows * 64)), bias(7, value) {
    for (size_t index = 0; index < table.size(); ++index) table[index] = value + static_cast<float>(index) / 3;
    state.parameters = {{"embedding", {rows, 64}, table.data()}, {"bias", {7}, bias.data()}, {"none", {0, 3}, nullptr}};
    state.optimizer_slots = {{"adam.first_moment/embedding", {rows, 64}, table.data()}};
    state.texts = {{"dataset_hash", "d"}};
    state.integers = {{"epoch", static_cast<int64_t>(value)}, {"batch", 0}};
    state.numbers = {{"best_metric", 0.25}};
  }
  std::vector<float> table, bias;
  CheckpointState state;
};

CheckpointTargets to(const std::string& file) {
  return {.links = {}, .files = {file}, .removed = {}};
}

TEST_CASE("a snapshot is written as its state was, whatever training does meanwhile", "[checkpoint_writer]") {
  TemporaryFolder folder;
  Device device;
  CheckpointWriter writer(device);
  for (int round = 0; round < 4; ++round) {
    // Another size in between: memory is taken anew and then used again.
    Large large(static_cast<float>(round), round == 2 ? 30000 : 20000);
    save_checkpoint(folder.path("expected.h5"), large.state);
    writer.save(large.state, to(folder.path("last.h5")));
    for (float& value : large.table) value = -1;
    large.bias.assign(7, -1);
    large.state.integers["epoch"] = -1;
    large.state.parameters.clear();
    writer.finish();
    REQUIRE(read_whole_file(folder.path("last.h5")) == read_whole_file(folder.path("expected.h5")));
  }
}

TEST_CASE("each save waits for the one before, and the end waits for the last", "[checkpoint_writer]") {
  TemporaryFolder folder;
  {
    Device device;
    CheckpointWriter writer(device);
    for (int round = 0; round < 4; ++round) {
      Large large(static_cast<float>(round));
      writer.save(large.state, to(folder.path(std::to_string(round))));
      for (int before = 0; before < round; ++before) {
        REQUIRE(read_checkpoint_header(folder.path(std::to_string(before))).integers.at("epoch") == before);
      }
    }
  }
  REQUIRE(read_checkpoint_header(folder.path("3")).integers.at("epoch") == 3);
}

TEST_CASE("checkpoints are read while others are written", "[checkpoint_writer]") {
  TemporaryFolder folder;
  Large written(1), read(2, 500), found(3, 500);
  save_checkpoint(folder.path("other.h5"), read.state);
  Device device;
  CheckpointWriter writer(device);
  for (int round = 0; round < 3; ++round) {
    writer.save(written.state, to(folder.path("last.h5")));
    for (int again = 0; again < 30; ++again) {
      std::fill(found.table.begin(), found.table.end(), 0.0f);
      load_checkpoint(folder.path("other.h5"), found.state);
      REQUIRE(found.table == read.table);
      REQUIRE_THROWS_WITH(read_checkpoint_header(folder.path("nothing")), Contains("No such file"));
    }
    writer.finish();
    Large whole(5);
    load_checkpoint(folder.path("last.h5"), whole.state);
    REQUIRE(whole.table == written.table);
  }
}

TEST_CASE("links come before the files and removals after", "[checkpoint_writer]") {
  TemporaryFolder folder;
  const std::string last = folder.path("last.h5"), kept = folder.path("a/b/kept.h5"), old = folder.path("old.h5");
  Device device;
  CheckpointWriter writer(device);
  writer.save(Large(1, 10).state, {.links = {}, .files = {last, old}, .removed = {}});
  writer.save(Large(2, 10).state, {.links = {{.from = last, .to = kept}}, .files = {last}, .removed = {old}});
  writer.finish();
  REQUIRE(read_checkpoint_header(kept).integers.at("epoch") == 1);
  REQUIRE(read_checkpoint_header(last).integers.at("epoch") == 2);
  REQUIRE(!std::filesystem::exists(old));

  // When it fails on the way, nothing is removed.
  writer.save(Large(3, 10).state, {.links = {}, .files = {folder.path("a")}, .removed = {last, kept}});
  REQUIRE_THROWS_WITH(writer.finish(), Contains("it is a folder"));
  REQUIRE(std::filesystem::exists(last));
  REQUIRE(std::filesystem::exists(kept));
  writer.finish();  // once is enough
  writer.save(Large(4, 10).state, to(last));
  writer.finish();
  REQUIRE(read_checkpoint_header(last).integers.at("epoch") == 4);
}

TEST_CASE("a full disk in the background is an error of the next call", "[checkpoint_writer]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  // The writer has its memory before the child process begins, which has none of the pool's threads to take it with.
  Device device;
  CheckpointWriter writer(device);
  writer.save(Large(1).state, to(path));
  writer.finish();
  const std::string at_finish = test::message_on_full_disk(4096, [&] {
    writer.save(Large(2).state, to(path));
    writer.finish();
  });
  REQUIRE_THAT(at_finish, Contains(path) && Contains("File too large"));
  const std::string at_save = test::message_on_full_disk(4096, [&] {
    writer.save(Large(2).state, to(path));
    writer.save(Large(3).state, to(folder.path("other.h5")));
    throw std::runtime_error("the second save went well");
  });
  REQUIRE_THAT(at_save, Contains(path) && Contains("File too large"));
  REQUIRE(read_checkpoint_header(path).integers.at("epoch") == 1);
  REQUIRE(!std::filesystem::exists(folder.path("other.h5")));
}

}  // namespace
}  // namespace itemloom
