#include "train/inspect.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/hdf5.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"
#include "train/checkpoint.h"

namespace itemloom {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;
using test::TemporaryFolder;

TEST_CASE("a dataset is described with its counts, provenance and first ids", "[inspect]") {
  TemporaryFolder folder;
  const std::string path = folder.path("data.h5");
  {
    Hdf5Writer file(path);
    write_header(file, "dataset", 3);
    file.write_attribute("/", "sequence_by", "user");
    file.write("/item/id", std::vector<std::string>{"i1", "\xc3\xbc", "i3", "i4", "i5", "i6"});
    file.write("/user/id", std::vector<std::string>{"u1", "u2"});
    file.write("/sequences/offsets", std::vector<int64_t>{0, 3, 7});
    file.write("/sequences/items", std::vector<int32_t>{0, 1, 2, 3, 4, 5, 0});
    file.write("/empty", std::vector<float>());
    file.write_attribute("/sequences/items", "order", "oldest first");
    file.create_group("/provenance");
    file.write_attribute("/provenance", "report", R"({"rows": 7, "dropped": {"duplicates": 1}})");
    file.write_attribute("/provenance", "shares", std::vector<double>{0.5, std::numeric_limits<double>::infinity()});
    file.commit();
  }
  const json description = describe_file(path);
  REQUIRE(description["kind"] == "dataset");
  REQUIRE(description["format_version"] == 3);
  REQUIRE(description["sealed"] == false);
  REQUIRE(description["bytes"] == read_whole_file(path).size());
  REQUIRE(description["counts"] == json{{"items", 6}, {"users", 2}, {"interactions", 7}});
  REQUIRE(description["attributes"] == json{{"sequence_by", "user"}});
  REQUIRE(description["groups"]["/provenance"]["report"]["dropped"]["duplicates"] == 1);
  REQUIRE(description["datasets"].size() == 5);
  REQUIRE(description["datasets"]["/item/id"] ==
          json{{"type", "text"}, {"shape", {6}}, {"first", {"i1", "\xc3\xbc", "i3", "i4", "i5"}}});
  REQUIRE(
      description["datasets"]["/sequences/items"] ==
      json{{"type", "int32"}, {"shape", {7}}, {"first", {0, 1, 2, 3, 4}}, {"attributes", {{"order", "oldest first"}}}});
  REQUIRE(description["datasets"]["/empty"] == json{{"type", "float32"}, {"shape", {0}}});
  // It can be written as JSON, infinities and all.
  REQUIRE(json::parse(description.dump())["groups"]["/provenance"]["shares"] == json{0.5, nullptr});

  const std::string text = description_text(description);
  REQUIRE_THAT(text, Contains(path + ": itemloom dataset, format version 3, "));
  REQUIRE_THAT(text, Contains("  interactions: 7\n"));
  REQUIRE_THAT(text, Contains("  /item/id            text (6)     i1, \xc3\xbc, i3, i4, i5, ...\n"));
  REQUIRE_THAT(text, Contains("  /sequences/offsets  int64 (3)    0, 3, 7\n"));
  REQUIRE_THAT(text, Contains("    order: oldest first\n"));
  REQUIRE_THAT(text, Contains("/provenance\n  report: {\"dropped\""));
}

TEST_CASE("a checkpoint is described with its entries and content hash", "[inspect]") {
  TemporaryFolder folder;
  const std::string path = folder.path("last.h5");
  std::vector<float> memory(24, 1);
  CheckpointState state;
  state.parameters = {{"embedding.weight", {4, 5}, memory.data()}, {"head.bias", {4}, memory.data() + 20}};
  state.optimizer_slots = {{"adam.first_moment/head.bias", {4}, memory.data()}};
  state.texts = {{"config", R"({"model": {"name": "bert4rec"}})"}, {"note", std::string(99, 'n') + "\xc3\xbc\xc3\xbc"}};
  state.integers = {{"step", 12}};
  state.numbers = {{"best", std::numeric_limits<double>::quiet_NaN()}};
  const std::string hash = save_checkpoint(path, state);
  const json description = describe_file(path);
  REQUIRE(description["kind"] == "checkpoint");
  REQUIRE(description["content_sha256"] == hash);
  REQUIRE(description["sealed"] == true);
  REQUIRE(description["counts"] == json{{"parameters", 24}});
  REQUIRE(description["texts"]["config"]["model"]["name"] == "bert4rec");
  REQUIRE(description["integers"] == json{{"step", 12}});
  REQUIRE(description["numbers"]["best"].is_null());
  REQUIRE(description["attributes"].empty());
  REQUIRE(description["groups"].empty());
  REQUIRE(description["datasets"]["/parameters/embedding.weight"]["shape"] == json{4, 5});
  REQUIRE(description["datasets"].contains("/optimizer/adam.first_moment/head.bias"));
  const std::string text = description_text(description);
  REQUIRE_THAT(text, Contains("content_sha256: " + hash + "\n"));
  REQUIRE_THAT(text, Contains("checksum intact"));
  REQUIRE_THAT(text, Contains("  note: " + std::string(99, 'n') + "...\n"));
}

TEST_CASE("files of others and damaged ones are refused", "[inspect]") {
  TemporaryFolder folder;
  const std::string path = folder.path("f.h5");
  REQUIRE_THROWS_WITH(describe_file(path), Contains("No such file"));
  {
    Hdf5Writer file(path);
    file.write("/values", std::vector<float>{1});
    file.commit();
  }
  REQUIRE_THROWS_WITH(describe_file(path), Contains(path + " was not written by itemloom"));
  {
    Hdf5Writer file(path);
    file.write_attribute("/", "format", int64_t{5});
    file.commit();
  }
  REQUIRE_THROWS_WITH(describe_file(path), Contains(path + " was not written by itemloom"));
  CheckpointState state;
  save_checkpoint(path, state);
  std::string bytes = read_whole_file(path);
  bytes[700] ^= 1;
  test::write_text(path, bytes);
  REQUIRE_THROWS_WITH(describe_file(path), Contains(path + " is damaged"));
  test::write_text(path, "user,item\n");
  REQUIRE_THROWS_WITH(describe_file(path), Contains("is not an HDF5 file"));
}

}  // namespace
}  // namespace itemloom
