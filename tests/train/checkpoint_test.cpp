#include "train/checkpoint.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>

#include "core/files.h"
#include "core/hdf5.h"
#include "tests/support/catch.h"
#include "tests/support/full_disk.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using test::TemporaryFolder;

// Memory for some tensors and the state that views it.
struct Sample {
  // Every value is `value` plus its place.
  explicit Sample(float value) {
    add(state.parameters, "embedding.items.weight", {31, 8}, value);
    add(state.parameters, "encoder.0.attention.qkv.weight", {8, 24}, value);
    add(state.parameters, "encoder.0.attention.qkv.bias", {24}, value);
    add(state.optimizer_slots, "adam.first_moment/embedding.items.weight", {31, 8}, -value);
    add(state.optimizer_slots, "adam.second_moment/embedding.items.weight", {31, 8}, value / 3);
    state.texts = {{"config", R"({"model": {"name": "bert4rec"}})"}, {"dataset", std::string(64, 'd')}, {"none", ""}};
    state.integers = {{"epoch", 3}, {"step", static_cast<int64_t>(value)}};
    state.numbers = {{"best", 0.1}, {"loss_sum", -1e300}, {"worst", -std::numeric_limits<double>::infinity()}};
  }
  void add(std::vector<NamedTensor>& tensors, const std::string& name, const std::vector<int64_t>& shape, float value) {
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    std::vector<float>& values = memory.emplace_back(std::make_unique<std::vector<float>>(size)).operator*();
    for (int64_t index = 0; index < size; ++index) values[index] = value + static_cast<float>(index) / 7;
    tensors.push_back({name, shape, values.data()});
  }
  bool same_as(const Sample& other) const {
    for (size_t index = 0; index < memory.size(); ++index) {
      if (std::memcmp(memory[index]->data(), other.memory[index]->data(), memory[index]->size() * 4) != 0) return false;
    }
    return state.texts == other.state.texts && state.integers == other.state.integers &&
           state.numbers == other.state.numbers;
  }

  CheckpointState state;
  std::vector<std::unique_ptr<std::vector<float>>> memory;
};

std::string message_of_load(const std::string& path, CheckpointState& state) {
  try {
    load_checkpoint(path, state);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("a checkpoint restores every bit", "[checkpoint]") {
  TemporaryFolder folder;
  Sample saved(5);
  // Bits that a detour through text would lose.
  (*saved.memory[0])[0] = -0.0f;
  (*saved.memory[0])[1] = std::numeric_limits<float>::denorm_min();
  const uint32_t odd_nan = 0x7fc12345;
  std::memcpy(&(*saved.memory[0])[2], &odd_nan, 4);
  const std::string hash = save_checkpoint(folder.path("last.h5"), saved.state);
  Sample loaded(-1);
  loaded.state.texts["stale"] = "not in the file";
  REQUIRE(load_checkpoint(folder.path("last.h5"), loaded.state) == hash);
  REQUIRE(loaded.same_as(saved));
  REQUIRE(hash.size() == 64);
}

TEST_CASE("equal states give equal files, and any difference another content hash", "[checkpoint]") {
  TemporaryFolder folder;
  const std::string hash = save_checkpoint(folder.path("a.h5"), Sample(5).state);
  Sample reordered(5);
  std::swap(reordered.state.parameters[0], reordered.state.parameters[2]);
  REQUIRE(save_checkpoint(folder.path("b.h5"), reordered.state) == hash);
  REQUIRE(save_checkpoint(folder.path("b.h5"), Sample(5).state) == hash);
  REQUIRE(read_whole_file(folder.path("a.h5")) == read_whole_file(folder.path("b.h5")));
  const auto changed = [&](auto change) {
    Sample sample(5);
    change(sample);
    return save_checkpoint(folder.path("b.h5"), sample.state);
  };
  REQUIRE(changed([](Sample& sample) { (*sample.memory[4])[247] = 0; }) != hash);
  REQUIRE(changed([](Sample& sample) { sample.state.parameters[1].name += "x"; }) != hash);
  REQUIRE(changed([](Sample& sample) { sample.state.parameters[1].shape = {24, 8}; }) != hash);
  REQUIRE(changed([](Sample& sample) { sample.state.texts["none"] = "x"; }) != hash);
  REQUIRE(changed([](Sample& sample) { sample.state.integers["step"] = 6; }) != hash);
  REQUIRE(changed([](Sample& sample) { sample.state.numbers["best"] = std::nextafter(0.1, 1); }) != hash);
}

TEST_CASE("an evaluation takes the parameters and leaves the optimizer's state", "[checkpoint]") {
  TemporaryFolder folder;
  Sample saved(5), loaded(-1);
  save_checkpoint(folder.path("last.h5"), saved.state);
  loaded.state.optimizer_slots.clear();
  load_checkpoint(folder.path("last.h5"), loaded.state);
  REQUIRE(*loaded.memory[2] == *saved.memory[2]);
  REQUIRE(*loaded.memory[3] == *Sample(-1).memory[3]);
}

TEST_CASE("a damaged checkpoint is refused and nothing is taken from it", "[checkpoint]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  save_checkpoint(path, Sample(5).state);
  const std::string bytes = read_whole_file(path);
  Sample loaded(-1);
  // Each bit of the seal, then one bit in every 89 bytes.
  for (size_t place = 0; place < bytes.size(); place += place < 81 ? 1 : 89) {
    std::string damaged = bytes;
    damaged[place] ^= static_cast<char>(1 << (place % 8));
    test::write_text(path, damaged);
    REQUIRE_THAT(message_of_load(path, loaded.state), Contains(path) && Contains("damaged"));
  }
  for (const size_t size : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{300}, size_t{512}, size_t{1000},
                            bytes.size() / 2, bytes.size() - 1}) {
    test::write_text(path, bytes.substr(0, size));
    REQUIRE_THAT(message_of_load(path, loaded.state), Contains(path) && Contains("damaged"));
  }
  test::write_text(path, bytes + '\0');
  REQUIRE_THAT(message_of_load(path, loaded.state), Contains("damaged"));
  REQUIRE_THAT(
      message_of_load(path, loaded.state),
      Equals("checkpoint " + path +
             " is damaged (its checksum is not that of its content); copy another checkpoint of the run over it "
             "(checkpoint-best.h5, or one in checkpoints/)"));
  REQUIRE(loaded.same_as(Sample(-1)));
}

TEST_CASE("a checkpoint of another dataset is refused as that, whatever its shapes", "[checkpoint]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  Sample saved(5);
  save_checkpoint(path, saved.state);
  const std::string refusal = path + " was trained on another dataset than the run's; put back the data it began with";
  Sample wanted(-1);
  wanted.state.texts["dataset_hash"] = "d1";
  REQUIRE(message_of_load(path, wanted.state) == refusal);
  saved.state.texts["dataset_hash"] = "d2";
  save_checkpoint(path, saved.state);
  wanted.state.parameters[0].shape = {32, 8};
  REQUIRE(message_of_load(path, wanted.state) == refusal);
  REQUIRE(*wanted.memory[0] == *Sample(-1).memory[0]);
  wanted.state.parameters[0].shape = {31, 8};
  wanted.state.texts["dataset_hash"] = "d2";
  REQUIRE(message_of_load(path, wanted.state) == "");
  REQUIRE(wanted.same_as(saved));
}

TEST_CASE("a checkpoint of another model names the first parameter that differs", "[checkpoint]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  save_checkpoint(path, Sample(5).state);
  const auto message = [&](auto change) {
    Sample other(-1);
    change(other);
    const std::string text = message_of_load(path, other.state);
    for (size_t index = 0; index < 5; ++index) REQUIRE(*other.memory[index] == *Sample(-1).memory[index]);
    return text;
  };
  const std::string model = path + " is a checkpoint of another model: parameter ";
  REQUIRE(message([](Sample& other) {
            other.state.parameters[1].shape = {8, 12};
          }) == model + "encoder.0.attention.qkv.weight has shape (8, 24) there and (8, 12) here");
  REQUIRE(message([](Sample& other) { other.add(other.state.parameters, "head.bias", {31}, 0); }) ==
          model + "head.bias, of shape (31) here, is not in it");
  REQUIRE(message([](Sample& other) { other.state.parameters.erase(other.state.parameters.begin()); }) ==
          model + "embedding.items.weight, of shape (31, 8) there, does not exist here");
  const std::string optimizer = path + " is a checkpoint of another optimizer: its state ";
  REQUIRE(message([](Sample& other) { other.state.optimizer_slots[0].name = "sgd.velocity/embedding.items.weight"; }) ==
          optimizer + "sgd.velocity/embedding.items.weight, of shape (31, 8) here, is not in it");
  REQUIRE(message([](Sample& other) { other.state.optimizer_slots.pop_back(); }) ==
          optimizer + "adam.second_moment/embedding.items.weight, of shape (31, 8) there, does not exist here");
}

TEST_CASE("what is no checkpoint is refused", "[checkpoint]") {
  TemporaryFolder folder;
  Sample sample(1);
  const std::string path = folder.path("f.h5");
  REQUIRE(message_of_load(path, sample.state) == "cannot read " + path + ": No such file or directory");
  REQUIRE_THAT(message_of_load(folder.path(), sample.state), Contains("it is a folder"));
  test::write_text(path, "user,item\n1,2\n");
  REQUIRE_THAT(message_of_load(path, sample.state), Contains(path + " is not a checkpoint"));
  {
    Hdf5Writer file(path);
    write_header(file, "dataset", 1);
    file.commit();
  }
  REQUIRE(message_of_load(path, sample.state) == path + " is an itemloom dataset, a checkpoint was expected");
  {
    Hdf5Writer file(path, true);
    write_header(file, "export", 1);
    file.commit();
  }
  REQUIRE(message_of_load(path, sample.state) == path + " is an itemloom export, a checkpoint was expected");
}

TEST_CASE("a checkpoint that cannot be written leaves the one before", "[checkpoint]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  REQUIRE_THROWS_WITH(save_checkpoint(folder.path("missing/last.h5"), Sample(1).state), Contains("does not exist"));
  save_checkpoint(path, Sample(1).state);
  const std::string message = test::message_on_full_disk(4096, [&] { save_checkpoint(path, Sample(2).state); });
  REQUIRE_THAT(message, Contains(path) && Contains("File too large"));
  Sample loaded(-1);
  load_checkpoint(path, loaded.state);
  REQUIRE(loaded.same_as(Sample(1)));
}

TEST_CASE("a process killed while it saves leaves a whole checkpoint", "[checkpoint]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  save_checkpoint(path, Sample(1).state);
  for (int round = 0; round < 12; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      for (int step = 1;; ++step) save_checkpoint(path, Sample(static_cast<float>(step)).state);
    }
    usleep(static_cast<useconds_t>(5000 + round * 1700));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    Sample loaded(-1);
    load_checkpoint(path, loaded.state);
    REQUIRE(loaded.same_as(Sample(static_cast<float>(loaded.state.integers["step"]))));
  }
}

TEST_CASE("parameters are named in a buffer laid out as theirs", "[checkpoint]") {
  ParameterStore store;
  const Scope scope(store);
  (scope / "head").matrix("weight", 3, 5, {});
  scope.vector("bias", 7, {});
  Device device;
  store.allocate(device, 1);
  const std::vector<NamedTensor> tensors = tensors_of(store, store.gradients(), "adam.first_moment/");
  REQUIRE(tensors.size() == 2);
  REQUIRE(tensors[0].name == "adam.first_moment/head.weight");
  REQUIRE(tensors[0].shape == std::vector<int64_t>{3, 5});
  REQUIRE(tensors[1].shape == std::vector<int64_t>{7});
  REQUIRE(tensors[1].data == store.gradients().data() + store.infos()[1].offset);
}

}  // namespace
}  // namespace itemloom
