// Shards of one data set, prepared one by one, against the whole prepared at once.
#include "data/merge.h"

#include <nlohmann/json.hpp>

#include "data/prepare.h"
#include "data/report.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom::test {
namespace {

using Catch::Matchers::Contains;

const char kHeader[] = "user,item,time,bill,name\n";
// u and v buy in all months, and bills do not go over the end of one. In march, u's rows are not in time order, and one
// has the time of the last one of february.
const char kJanuary[] = "u,a,2024-01-03,1,Ape\nv,b,2024-01-05,2,\nu,c,2024-01-02,3,Cat\n";
const char kFebruary[] = "w,d,2024-02-01,4,Dog\nu,a,2024-02-09,5,Ape\nv,b,2024-02-03,6,Bee\n";
const char kMarch[] = "u,e,2024-03-02,7,\nu,b,2024-02-09,8,Bug\nx,a,2024-03-01,9,Ape\nv,c,2024-03-09,10,Cat\n";

DataConfig config_for(const TemporaryFolder& folder, const std::string& name, const std::string& rows) {
  DataConfig config;
  config.files = {folder.path(name + ".csv")};
  write_text(config.files[0], kHeader + rows);
  config.columns = {.user = "user", .item = "item", .timestamp = "time", .basket = "bill", .title = "name"};
  return config;
}

// Prepares a shard and gives its file.
std::string shard(const TemporaryFolder& folder, const std::string& name, const DataConfig& config) {
  const std::string path = folder.path(name + ".h5");
  save_dataset(prepare(config), path);
  return path;
}
std::string shard(const TemporaryFolder& folder, const std::string& name, const std::string& rows) {
  return shard(folder, name, config_for(folder, name, rows));
}

Dataset merged(const std::vector<std::string>& files) {
  DataConfig config;
  config.format = "prepared";
  config.files = files;
  return prepare(config);
}

std::string refusal(const std::vector<std::string>& files) {
  try {
    merged(files);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

std::string sequences_of(const Dataset& dataset) {
  std::string text;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    text += std::string(s > 0 ? " | " : "") + std::string(dataset.sequence_ids[static_cast<int32_t>(s)]) + ":";
    for (int32_t item : dataset.sequence(s)) text += " " + std::string(dataset.item_ids[item]);
  }
  return text;
}

}  // namespace

TEST_CASE("shards of months are merged to what the whole is prepared to", "[data]") {
  const TemporaryFolder folder;
  const std::vector<std::string> files = {shard(folder, "january", kJanuary), shard(folder, "february", kFebruary),
                                          shard(folder, "march", kMarch)};
  const Dataset whole = prepare(config_for(folder, "whole", std::string(kJanuary) + kFebruary + kMarch));
  const Dataset dataset = merged(files);
  REQUIRE(sequences_of(dataset) == "u: c a a b e | v: b b c | w: d | x: a");
  REQUIRE(dataset.titles == std::vector<std::string>{"Ape", "Bee", "Cat", "Dog", ""});
  REQUIRE(sequences_of(whole) == sequences_of(dataset));
  REQUIRE(dataset.item_counts == std::vector<int64_t>{3, 3, 2, 1, 1});
  REQUIRE(std::vector<int32_t>(dataset.baskets.begin(), dataset.baskets.end()) ==
          std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  // Numbers, times and baskets too.
  REQUIRE(dataset.hash == whole.hash);
  const auto report = nlohmann::json::parse(dataset.report);
  REQUIRE(report == nlohmann::json::parse(whole.report));
  REQUIRE(report.at("rows") == 10);
  REQUIRE(report.at("times").at("ties") == 1);

  const auto sources = nlohmann::json::parse(dataset.sources);
  REQUIRE(sources.size() == 3);
  REQUIRE(sources[1].at("name") == "february.csv");
  const auto config = nlohmann::json::parse(dataset.config);
  REQUIRE(config.at("files")[2].at("name") == "march.h5");
  REQUIRE(config.at("files")[2].at("config").at("columns").at("basket") == "bill");

  // What was merged is a shard again.
  save_dataset(merged({files[0], files[1]}), folder.path("winter.h5"));
  REQUIRE(merged({folder.path("winter.h5"), files[2]}).hash == whole.hash);
}

TEST_CASE("shards without times follow each other, and bills make sequences of one id", "[data]") {
  const TemporaryFolder folder;
  const auto without_times = [&](const std::string& name, const std::string& rows) {
    DataConfig config = config_for(folder, name, rows);
    config.columns.timestamp = config.columns.basket = "";
    return config;
  };
  const std::string january = shard(folder, "january", without_times("january", kJanuary));
  const std::string march = shard(folder, "march", without_times("march", kMarch));
  REQUIRE(sequences_of(merged({january, march})) == "u: a c e b | v: b c | x: a");
  REQUIRE(sequences_of(merged({march, january})) == "u: e b a c | x: a | v: c b");

  DataConfig one = config_for(folder, "one", "u,a,2024-01-03,1,\nu,b,2024-01-09,1,\n");
  DataConfig two = config_for(folder, "two", "u,c,2024-01-05,1,\nu,c,2024-01-05,2,\n");
  one.sequence_by = two.sequence_by = "basket";
  REQUIRE(sequences_of(merged({shard(folder, "one", one), shard(folder, "two", two)})) == "1: a c b | 2: c");
}

TEST_CASE("the reports of shards are added up", "[data]") {
  const TemporaryFolder folder;
  const auto config = [&](const std::string& name, const std::string& rows) {
    DataConfig config = config_for(folder, name, rows);
    config.on_bad_row = "skip";
    FilterConfig no_dogs, core;
    no_dogs.column = "item";
    no_dogs.pattern = "^d$";
    core.rule = "k_core";
    core.users = 2;
    core.items = 1;
    config.filters = {no_dogs, core};
    return config;
  };
  const Dataset dataset =
      merged({shard(folder, "one", config("one", std::string(kFebruary) + "u,b,2024-02-10,5,\nbad\n")),
              shard(folder, "two", config("two", std::string(kMarch) + "z,d,2024-03-09,11,\n"))});
  const auto report = nlohmann::json::parse(dataset.report);
  REQUIRE(report.at("rows") == 10);
  REQUIRE(report.at("bad_rows").at("count") == 1);
  REQUIRE(report.at("bad_rows").at("shown").size() == 1);
  REQUIRE(report.at("rules").size() == 2);
  REQUIRE(report["rules"][0].at("rows") == 2);
  REQUIRE(report["rules"][1].at("rows") == 3);
  REQUIRE(report["rules"][1].at("users") == 3);
  REQUIRE(report.at("interactions") == 4);
  REQUIRE(sequences_of(dataset) == "u: a b b e");
}

TEST_CASE("shards that do not belong together are refused by name", "[data]") {
  const TemporaryFolder folder;
  const std::string january = shard(folder, "january", kJanuary), march = shard(folder, "march", kMarch);
  const std::string numbers = shard(folder, "numbers", "u,a,1700000000,1,\n");
  REQUIRE(refusal({january, march, numbers}) ==
          "data.files: " + numbers + " has times in \"unit of the source\", but " + january +
              " has times in \"seconds since 1970-01-01 UTC\"; prepare all shards in the same way");
  DataConfig other = config_for(folder, "other", kMarch);
  other.columns.timestamp = "";
  REQUIRE_THAT(refusal({january, shard(folder, "untimed", other)}), Contains("untimed.h5 has no timestamps, but"));
  other = config_for(folder, "other", kMarch);
  other.columns.basket = "";
  const std::string plain = shard(folder, "plain", other);
  REQUIRE_THAT(refusal({plain, january}), Contains("january.h5 has baskets, but " + plain + " has no baskets"));
  other = config_for(folder, "other", kMarch);
  other.sequence_by = "basket";
  REQUIRE_THAT(refusal({january, shard(folder, "bills", other)}),
               Contains("bills.h5 has one sequence a basket, but " + january + " has one sequence a user"));
  const std::string copy = shard(folder, "copy", kJanuary);
  REQUIRE(refusal({january, march, copy}) ==
          "data.files: " + copy + " holds the same data as " + january + "; name it once");
  REQUIRE_THAT(refusal({january, folder.path("april.h5"), march}),
               Contains(folder.path("april.h5")) && Contains("No such file"));
}

}  // namespace itemloom::test
