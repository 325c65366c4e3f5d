#include "data/dataset.h"

#include <filesystem>
#include <string>
#include <vector>

#include "core/hdf5.h"
#include "data/prepare.h"
#include "data/split.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom::test {
namespace {

using Catch::Matchers::Contains;

template <class T>
std::vector<T> values(Vector<const T> view) {
  return std::vector<T>(view.begin(), view.end());
}

DataConfig config_for(const TemporaryFolder& folder, const std::string& text) {
  DataConfig config;
  config.files = {folder.path("data.csv")};
  write_text(config.files[0], text);
  config.columns = {.user = "user", .item = "item", .timestamp = "time", .basket = "bill", .title = "name"};
  return config;
}

const char kRows[] =
    "user,item,time,bill,name\nu,a,1,x,Ape\nu,b,2,x,\nu,\xC3\xA9,3,y,\xC3\x89t\xC3\xA9\nv,a,5,z,Ape\nv,b,6,z,\nw,a,7,q,"
    "Ape\n"
    "u,d,8,y,Dog\n\"q\nr\",a,1,t,Ape\n";

// What loading says against a file.
std::string refusal(const std::string& path) {
  try {
    load_dataset(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

// Sequences of lengths 1 to 5 over five items.
DataConfig times_config(const TemporaryFolder& folder) {
  DataConfig config = config_for(folder,
                                 "user,item,time\n"
                                 "s1,a,10\n"
                                 "s2,a,1\ns2,b,20\n"
                                 "s3,c,5\ns3,d,12\ns3,d,14\n"
                                 "s4,a,1\ns4,b,2\ns4,c,30\ns4,d,31\n"
                                 "s5,e,1\ns5,a,11\ns5,b,12\ns5,a,13\ns5,e,25\n");
  config.columns.basket = config.columns.title = "";
  return config;
}

std::string cases_text(const EvaluationCases& cases, const Dataset& dataset) {
  std::string text;
  for (const EvaluationCase& one : cases.cases) {
    text += std::string(dataset.sequence_ids[static_cast<int32_t>(one.sequence)]) + "/" +
            std::to_string(one.history_end) + ":";
    for (int32_t item : cases.targets_of(one)) text += std::string(dataset.item_ids[item]);
    text += " ";
  }
  return text;
}

std::vector<int64_t> training_lengths(const Dataset& dataset, const Split& split) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) lengths.push_back(split.training_ends[s] - dataset.offsets[s]);
  return lengths;
}

}  // namespace

TEST_CASE("a dataset file gives back what was saved", "[data]") {
  const TemporaryFolder folder;
  const Dataset saved = prepare(config_for(folder, kRows));
  const std::string path = folder.path("prepared.h5");
  save_dataset(saved, path);
  const Dataset loaded = load_dataset(path);
  REQUIRE(values(loaded.offsets) == values(saved.offsets));
  REQUIRE(values(loaded.items) == values(saved.items));
  REQUIRE(values(loaded.timestamps) == values(saved.timestamps));
  REQUIRE(values(loaded.baskets) == values(saved.baskets));
  REQUIRE(loaded.sequence_ids.ids() == saved.sequence_ids.ids());
  REQUIRE(loaded.item_ids.ids() == saved.item_ids.ids());
  REQUIRE(loaded.titles == std::vector<std::string>{"Ape", "", "\xC3\x89t\xC3\xA9", "Dog"});
  REQUIRE(loaded.item_counts == std::vector<int64_t>{4, 2, 1, 1});
  REQUIRE(loaded.hash == saved.hash);
  REQUIRE(loaded.sources == saved.sources);
  REQUIRE(loaded.config == saved.config);
  REQUIRE(loaded.report == saved.report);
  REQUIRE(loaded.timestamp_unit == saved.timestamp_unit);

  DataConfig prepared;
  prepared.format = "prepared";
  prepared.files = {path};
  REQUIRE(prepare(prepared).hash == saved.hash);

  // A copy keeps the mapping alive.
  Dataset copy;
  {
    const Dataset mapped = load_dataset(path);
    copy = mapped;
  }
  REQUIRE(values(copy.items) == values(saved.items));
}

TEST_CASE("the hash tells any two contents apart", "[data]") {
  const TemporaryFolder folder;
  const std::string rows = kRows;
  const std::string hash = prepare(config_for(folder, rows)).hash;
  REQUIRE(hash.size() == 64);
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"u,b,2", "u,a,2"}, {"u,b,2", "u,b,3"}, {"5,z", "5,y"}, {"Dog", "Cat"}, {"w,a", "x,a"}}) {
    std::string changed = rows;
    changed.replace(changed.find(from), from.size(), to);
    INFO(to);
    REQUIRE(prepare(config_for(folder, changed)).hash != hash);
  }
}

TEST_CASE("damaged dataset files are refused in one line", "[data]") {
  const TemporaryFolder folder;
  const std::string path = folder.path("prepared.h5");
  save_dataset(prepare(config_for(folder, kRows)), path);
  const std::string bytes = read_text(path);
  write_text(path, bytes.substr(0, bytes.size() / 2));
  REQUIRE_THAT(refusal(path), Contains(path));
  write_text(path, "");
  REQUIRE_THAT(refusal(path), Contains(path) && Contains("empty"));
  write_text(path, "user,item\n");
  REQUIRE_THAT(refusal(path), Contains(path));
  {
    Hdf5Writer other(path);
    write_header(other, "checkpoint", 1);
    other.commit();
  }
  REQUIRE_THAT(refusal(path), Contains("checkpoint") && Contains("dataset"));
  REQUIRE_THAT(refusal(folder.path("none.h5")), Contains(folder.path("none.h5")));
  for (size_t at = 512; at < bytes.size(); at += 97) {
    std::string changed = bytes;
    changed[at] ^= static_cast<char>(1 << at % 8);
    write_text(path, changed);
    INFO("byte " << at);
    REQUIRE_THAT(refusal(path), Contains(path) && !Contains("\n"));
  }
}

TEST_CASE("datasets that contradict themselves are refused, naming the place", "[data]") {
  const TemporaryFolder folder;
  const std::string path = folder.path("prepared.h5");
  const Dataset good = prepare(config_for(folder, kRows));
  const auto refusal_of = [&](Dataset changed) {
    save_dataset(changed, path);
    return refusal(path);
  };
  const auto with_item = [&](int32_t item) {
    std::vector<int32_t> items = values(good.items);
    items[2] = item;
    Dataset changed = good;
    changed.items = Vector<const int32_t>(items.data(), items.size());
    return refusal_of(changed);
  };
  const auto with_offset = [&](size_t index, int64_t offset) {
    std::vector<int64_t> offsets = values(good.offsets);
    offsets[index] = offset;
    Dataset changed = good;
    changed.offsets = Vector<const int64_t>(offsets.data(), offsets.size());
    return refusal_of(changed);
  };
  REQUIRE(with_item(4) == path + ": /sequences/items[2] is 4, but there are 4 items");
  REQUIRE(with_item(-1) == path + ": /sequences/items[2] is -1, but there are 4 items");
  REQUIRE(with_item(0) == path + " is damaged: its content does not match its SHA-256; prepare it again");
  REQUIRE(with_offset(0, 1) == path + ": /sequences/offsets[0] is 1, not 0");
  REQUIRE(with_offset(2, 1) == path + ": /sequences/offsets[2] is 1, less than the one before it, 4");
  REQUIRE(with_offset(4, 9) == path + ": the last of /sequences/offsets is 9, but there are 8 items");
  Dataset changed = good;
  changed.timestamps = Vector<const int64_t>(good.timestamps.data(), 7);
  REQUIRE(refusal_of(changed) == path + ": /sequences/timestamps has 7 entries where 8 are expected");
  changed = good;
  changed.titles.pop_back();
  REQUIRE(refusal_of(changed) == path + ": /item/count or /item/title has another number of entries than /item/id");
}

TEST_CASE("a dataset that cannot be written leaves nothing behind", "[data]") {
  const TemporaryFolder folder;
  const Dataset dataset = prepare(config_for(folder, kRows));
  REQUIRE_THROWS_WITH(save_dataset(dataset, folder.path("missing/prepared.h5")), Contains("missing"));
  REQUIRE(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("leave-one-out holds out the last two items of sequences of three and more", "[data]") {
  const TemporaryFolder folder;
  DataConfig config = times_config(folder);
  const Dataset dataset = prepare(config);
  const Split split = make_split(dataset, config);
  REQUIRE(training_lengths(dataset, split) == std::vector<int64_t>{1, 2, 1, 2, 3});
  REQUIRE(split.too_short == 2);
  REQUIRE(unasked_text(split) == "2 sequences have fewer than 3 interactions: they are trained on, but not evaluated");
  REQUIRE(split.training_interactions == 9);
  REQUIRE(cases_text(split.validation, dataset) == "s3/1:d s4/2:c s5/3:a ");
  REQUIRE(cases_text(split.test, dataset) == "s3/2:d s4/3:d s5/4:e ");
  // Three parts of three cases.
  for (int part = 0; part < 3; ++part) {
    const Split own = make_split(dataset, config, {.index = part, .count = 3});
    REQUIRE(training_lengths(dataset, own) == std::vector<int64_t>{1, 2, 1, 2, 3});
    REQUIRE(own.test.size_of_all() == 3);
    REQUIRE(cases_text(own.validation, dataset) == std::vector<std::string>{"s3/1:d ", "s4/2:c ", "s5/3:a "}[part]);
    REQUIRE(cases_text(own.test, dataset) == std::vector<std::string>{"s3/2:d ", "s4/3:d ", "s5/4:e "}[part]);
  }
  // a: s1, s2, s4, s5; b: s2, s4, s5; c: s3; d: none; e: s5.
  REQUIRE(training_item_counts(dataset, split) == std::vector<int64_t>{4, 3, 1, 0, 1});

  config = config_for(folder, "user,item\nu,a\nu,b\nv,a\n");
  config.columns = {.user = "user", .item = "item", .timestamp = "", .basket = "", .title = ""};
  REQUIRE_THROWS_WITH(
      make_split(prepare(config), config),
      "no sequence is long enough to be evaluated: the longest of 2 has 2 interactions, and leave_one_out "
      "needs 3");
}

TEST_CASE("the temporal split asks what comes after two points in time", "[data]") {
  const TemporaryFolder folder;
  DataConfig config = times_config(folder);
  config.split = "temporal";
  config.temporal = {.validation_from = "11", .test_from = "20"};
  const Dataset dataset = prepare(config);
  const Split split = make_split(dataset, config);
  REQUIRE(training_lengths(dataset, split) == std::vector<int64_t>{1, 1, 1, 2, 1});
  REQUIRE(cases_text(split.validation, dataset) == "s3/1:d s5/1:ab ");
  REQUIRE(cases_text(split.test, dataset) == "s2/1:b s4/2:cd s5/4:e ");
  REQUIRE(split.validation_without_history == 0);
  REQUIRE(unasked_text(split) == "");
  // Two cases are fewer than three ranks: one of them has none.
  std::string validation, test;
  for (int part = 0; part < 3; ++part) {
    const Split own = make_split(dataset, config, {.index = part, .count = 3});
    REQUIRE(own.validation.size_of_all() == 2);
    validation += cases_text(own.validation, dataset) + "/";
    test += cases_text(own.test, dataset) + "/";
  }
  REQUIRE(validation == "/s3/1:d /s5/1:ab /");
  REQUIRE(test == "s2/1:b /s4/2:cd /s5/4:e /");

  config.temporal = {.validation_from = "2", .test_from = "11"};
  const Split early = make_split(dataset, config);
  REQUIRE(early.validation_without_history == 2);  // s1 and s3
  REQUIRE(unasked_text(early) == "2 sequences begin in the time of validation, which cannot ask about them");
  Split both;
  both.validation_without_history = 1;
  both.test_without_history = 1200;
  REQUIRE(unasked_text(both) ==
          "1 sequence begins in the time of validation, which cannot ask about it; 1,200 "
          "sequences begin in the time of test, which cannot ask about them");
  REQUIRE(cases_text(early.validation, dataset) == "s4/1:b ");
  REQUIRE(training_lengths(dataset, early) == std::vector<int64_t>{0, 1, 0, 1, 1});

  const auto refusal = [&](const char* validation, const char* test) -> std::string {
    config.temporal = {.validation_from = validation, .test_from = test};
    try {
      make_split(dataset, config);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  REQUIRE_THAT(refusal("20", "11"),
               Contains("data.temporal.validation_from (20) must be before data.temporal.test_from (11)"));
  REQUIRE_THAT(refusal("", "11"),
               Contains("data.temporal.validation_from: \"\" is not a time like the data's (a number)"));
  REQUIRE_THAT(refusal("11", "2011-01-01"),
               Contains("data.temporal.test_from: \"2011-01-01\" is not a time like the data's"));
  REQUIRE_THAT(refusal("100", "200"), Contains("the temporal split leaves no sequence for validation") &&
                                          Contains("the data goes from 1 to 31"));
  REQUIRE_THAT(refusal("11", "200"), Contains("the temporal split leaves no sequence for test"));
  Dataset timeless = dataset;
  timeless.timestamps = Vector<const int64_t>::none();
  config.temporal = {.validation_from = "11", .test_from = "20"};
  REQUIRE_THROWS_WITH(make_split(timeless, config), "data.split is \"temporal\", but the data has no timestamps");
}

}  // namespace itemloom::test
