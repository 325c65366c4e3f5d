#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/report.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom::test {
namespace {

using Catch::Matchers::Contains;
using Items = std::vector<std::string>;

// Files in a folder of their own and a config that reads them.
struct Input {
  explicit Input(const std::vector<std::string>& texts) {
    for (size_t i = 0; i < texts.size(); ++i) {
      config.files.push_back(folder.path("part" + std::to_string(i) + ".csv"));
      write_text(config.files.back(), texts[i]);
    }
    config.columns.user = "user";
    config.columns.item = "item";
  }
  explicit Input(const std::string& text) : Input(std::vector<std::string>{text}) {}
  const std::string& path() const { return config.files[0]; }

  TemporaryFolder folder;
  DataConfig config;
};

// "user: item item | user: item" in the dataset's order.
std::string sequences_of(const Dataset& dataset) {
  std::string text;
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    if (s > 0) text += " | ";
    text += std::string(dataset.sequence_ids[static_cast<int32_t>(s)]) + ":";
    for (int32_t item : dataset.sequence(s)) text += " " + std::string(dataset.item_ids[item]);
  }
  return text;
}

nlohmann::json report_of(const Dataset& dataset) {
  return nlohmann::json::parse(dataset.report);
}

FilterConfig match(const std::string& column, const std::string& pattern, const std::string& action) {
  FilterConfig filter;
  filter.column = column;
  filter.pattern = pattern;
  filter.action = action;
  return filter;
}
FilterConfig rule(const std::string& name, const std::vector<std::string>& columns = {}) {
  FilterConfig filter;
  filter.rule = name;
  filter.columns = columns;
  return filter;
}
FilterConfig k_core(int64_t users, int64_t items) {
  FilterConfig filter = rule("k_core");
  filter.users = users;
  filter.items = items;
  return filter;
}

std::vector<FilterConfig> shop_filters() {
  return {match("InvoiceNo", "^C", "drop"), match("StockCode", "^[0-9]{5}", "keep"),
          rule("positive", {"Quantity", "UnitPrice"})};
}

DataConfig shop() {
  DataConfig config;
  config.files = {ITEMLOOM_SOURCE_DIR "/data/samples/online-retail.csv.xz"};
  config.columns = {.user = "CustomerID",
                    .item = "StockCode",
                    .timestamp = "InvoiceDate",
                    .basket = "InvoiceNo",
                    .title = "Description"};
  return config;
}

std::string shared_file(const std::string& name) {
  return ITEMLOOM_SOURCE_DIR "/../shared/data/" + name;
}

}  // namespace

TEST_CASE("rows become sequences in time order, ties in file order", "[data]") {
  Input input("time,user,item\n30,u,a\n10,u,b\n20,v,b\n10,u,c\n10,u,a\n");
  input.config.columns.timestamp = "time";
  const Dataset dataset = prepare(input.config);
  REQUIRE(sequences_of(dataset) == "u: b c a a | v: b");
  REQUIRE(dataset.item_ids.find("a") == 0);
  REQUIRE(dataset.item_ids.find("b") == 1);
  REQUIRE(std::vector<int64_t>(dataset.timestamps.begin(), dataset.timestamps.end()) ==
          std::vector<int64_t>{10, 10, 10, 30, 20});
  REQUIRE(dataset.item_counts == std::vector<int64_t>{2, 2, 1});
  REQUIRE(dataset.timestamp_unit == "unit of the source");
  REQUIRE(report_of(dataset)["times"]["ties"] == 2);
  REQUIRE(report_of(dataset)["times"]["tie_rule"] == "file order");
  REQUIRE_FALSE(dataset.baskets);
}

TEST_CASE("without times the order of the files is the order in time", "[data]") {
  Input input(std::vector<std::string>{"user,item\nu,a\nv,b\n", "item;user;more\nc;u;x\na;u;y\n"});
  const Dataset dataset = prepare(input.config);
  REQUIRE(sequences_of(dataset) == "u: a c a | v: b");
  REQUIRE_FALSE(dataset.timestamps);
  REQUIRE(report_of(dataset)["rows"] == 4);
}

TEST_CASE("a fraction that comes late makes all times finer", "[data]") {
  Input input("time,user,item\n2,u,a\n1.5,u,b\n");
  input.config.columns.timestamp = "time";
  const Dataset dataset = prepare(input.config);
  REQUIRE(sequences_of(dataset) == "u: b a");
  REQUIRE(dataset.timestamps[1] == 2'000'000);
}

TEST_CASE("columns are found by name or number, with and without a header", "[data]") {
  Input input("u\ta\nv\tb\n");
  input.config.csv.header = false;
  input.config.columns.user = "1";
  input.config.columns.item = "2";
  REQUIRE(sequences_of(prepare(input.config)) == "u: a | v: b");
  input.config.columns.item = "3";
  REQUIRE_THROWS_WITH(prepare(input.config), "data.columns.item: " + input.path() + " has no column 3; it has 2");
  input.config.columns.item = "item";
  REQUIRE_THROWS_WITH(prepare(input.config),
                      Contains("is read without a header, so columns are numbers from \"1\" to \"2\", not \"item\""));

  Input named("user,2,item\nu,x,a\n");
  named.config.columns.item = "2";  // a name goes before a number
  REQUIRE(sequences_of(prepare(named.config)) == "u: x");
  named.config.columns.item = "sku";
  REQUIRE_THROWS_WITH(prepare(named.config), "data.columns.item: " + named.path() +
                                                 " has no column \"sku\"; its columns are \"user\", \"2\", \"item\"");
  Input twice("user,item,item\nu,a,b\n");
  REQUIRE_THROWS_WITH(prepare(twice.config), Contains("has more than one column \"item\""));
}

TEST_CASE("configs that leave the data's shape open are refused", "[data]") {
  Input input("user,item\nu,a\n");
  input.config.columns.item = "";
  REQUIRE_THROWS_WITH(prepare(input.config), "data.columns.item is empty: name the column with the item's id");
  input.config.columns = {.user = "", .item = "item", .timestamp = "", .basket = "", .title = ""};
  REQUIRE_THROWS_WITH(prepare(input.config), Contains("data.columns.user is empty"));
  input.config.sequence_by = "basket";
  REQUIRE_THROWS_WITH(prepare(input.config), Contains("data.columns.basket is empty"));
  input.config.files = {};
  REQUIRE_THROWS_WITH(prepare(input.config), "data.files is empty: name at least one input file");
}

TEST_CASE("RecBole tables bring their names and types", "[data]") {
  Input input("user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t\"a\t3\t20\n1\tb\t4\t10.0\n");
  input.config.format = "inter";
  input.config.columns = {};
  REQUIRE(sequences_of(prepare(input.config)) == "1: b \"a");
  Input timeless("item_id:token\tuser_id:token\na\tu\nb\tu\n");
  timeless.config.format = "inter";
  timeless.config.columns = {};
  REQUIRE(sequences_of(prepare(timeless.config)) == "u: a b");
  timeless.config.columns.timestamp = "when";
  REQUIRE_THROWS_WITH(prepare(timeless.config),
                      Contains("data.columns.timestamp: ") && Contains("has no column \"when\""));
  timeless.config.columns.timestamp = "";
  timeless.config.files.insert(timeless.config.files.begin(), input.config.files[0]);
  REQUIRE_THROWS_WITH(prepare(timeless.config), Contains("some of the data.files have timestamps and some have none"));
  Input untyped("user_id\titem_id\nu\ta\n");
  untyped.config.format = "inter";
  REQUIRE_THROWS_WITH(prepare(untyped.config), Contains("is no RecBole table: its column \"user_id\" has no type"));
}

TEST_CASE("one line a sequence", "[data]") {
  Input input("u a  b\tc \n\nv b\nu d\n");
  input.config.format = "sequences";
  REQUIRE(sequences_of(prepare(input.config)) == "u: a b c d | v: b");
  input.config.filters = {rule("duplicates"), match("item", "^c$", "drop"), match("user", "v", "drop")};
  REQUIRE(sequences_of(prepare(input.config)) == "u: a b d");
  Input lonely("u\nv a\n");
  lonely.config.format = "sequences";
  REQUIRE_THROWS_WITH(prepare(lonely.config), Contains(lonely.path() + ":1: a user without items"));
}

TEST_CASE("rows without a basket are of none, not of one together", "[data]") {
  for (const char* sequence_by : {"user", "basket"}) {
    INFO(sequence_by);
    Input input("user,item,bill\nu,a,7\nu,b,\nv,c,\nv,d,8\n");
    input.config.columns.basket = "bill";
    input.config.sequence_by = sequence_by;
    REQUIRE_THROWS_WITH(prepare(input.config),
                        Contains("2 rows cannot be read: " + input.path() +
                                 ":3: the basket is empty (a filter \"missing\" drops such rows); " + input.path() +
                                 ":4: the basket is empty"));
    input.config.filters = {rule("missing", {"bill"})};
    const Dataset dataset = prepare(input.config);
    REQUIRE(dataset.interaction_count() == 2);
    REQUIRE(report_of(dataset)["rules"][0]["rows"] == 2);
    // Who has no use for baskets names no column of them.
    input.config.filters = {};
    input.config.columns.basket = "";
    input.config.sequence_by = "user";
    REQUIRE(sequences_of(prepare(input.config)) == "u: a b | v: c d");
  }
}

TEST_CASE("baskets are kept, or are the sequences", "[data]") {
  Input input("user,item,bill,time\nu,a,7,1\nu,b,9,2\nv,a,8,1\nu,c,9,2\n,d,5,3\n");
  input.config.columns.basket = "bill";
  input.config.columns.timestamp = "time";
  REQUIRE_THROWS_WITH(prepare(input.config), Contains(input.path() + ":6: the user is empty"));
  input.config.filters = {rule("missing", {"user"})};
  const Dataset by_user = prepare(input.config);
  REQUIRE(sequences_of(by_user) == "u: a b c | v: a");
  REQUIRE(std::vector<int32_t>(by_user.baskets.begin(), by_user.baskets.end()) == std::vector<int32_t>{0, 1, 1, 2});
  REQUIRE(report_of(by_user)["baskets"] == 3);

  input.config.filters = {};
  input.config.sequence_by = "basket";
  const Dataset by_basket = prepare(input.config);
  REQUIRE(sequences_of(by_basket) == "7: a | 9: b c | 8: a | 5: d");
  REQUIRE_FALSE(by_basket.baskets);
  REQUIRE(by_basket.sequence_by == "basket");
}

TEST_CASE("every filter reports what it dropped", "[data]") {
  Input input(
      "user,item,count,price\n"
      "u,a,1,1\nu,a,1,1\nu,b,0,1\nu,b,-1,1\nu,c,1,\n ,a,1,1\nu,POST,1,1\nu,d,2.5,1e1\nu,d,2.5,2\nu,e,x,1\n");
  input.config.filters = {match("item", "[A-Z]", "drop"), rule("positive", {"count", "price"}),
                          rule("missing", {"user"}), rule("duplicates", {"user", "item"})};
  const Dataset dataset = prepare(input.config);
  REQUIRE(sequences_of(dataset) == "u: a d");
  const auto rules = report_of(dataset)["rules"];
  REQUIRE(rules[0]["rows"] == 1);
  REQUIRE(rules[0]["reason"] == "item matches \"[A-Z]\"");
  REQUIRE(rules[1]["rows"] == 4);
  REQUIRE(rules[1]["reason"] == "count or price is not above zero");
  REQUIRE(rules[2]["rows"] == 1);
  REQUIRE(rules[2]["reason"] == "user is empty");
  REQUIRE(rules[3]["rows"] == 2);
  const std::string text = report_text(nlohmann::ordered_json::parse(dataset.report));
  REQUIRE_THAT(text, Contains("10 rows read\n") &&
                         Contains("           4 dropped: count or price is not above zero\n") &&
                         Contains("2 interactions of 1 users with 2 items"));
}

TEST_CASE("duplicates compare fields, not their concatenation", "[data]") {
  Input input("user,item\nab,c\na,bc\nab,c\n");
  input.config.filters = {rule("duplicates")};
  REQUIRE(sequences_of(prepare(input.config)) == "ab: c | a: bc");
}

TEST_CASE("filters that make no sense are refused", "[data]") {
  Input input("user,item\nu,a\n");
  const auto refusal = [&](const std::vector<FilterConfig>& filters) -> std::string {
    input.config.filters = filters;
    try {
      prepare(input.config);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  REQUIRE_THAT(refusal({rule("duplicates"), match("item", "(", "drop")}),
               Contains("data.filters[1].pattern: \"(\" is no regular expression ("));
  REQUIRE_THAT(refusal({match("", "a", "drop")}), Contains("data.filters[0].column is empty"));
  REQUIRE_THAT(refusal({rule("missing")}), Contains("data.filters[0].columns is empty: name the columns"));
  REQUIRE_THAT(refusal({match("sku", "a", "drop")}),
               Contains("data.filters[0].column: ") && Contains("has no column \"sku\""));
  REQUIRE_THAT(refusal({k_core(1, 1), rule("duplicates")}),
               Contains("data.filters[1]: the rule \"duplicates\" comes after k_core"));
}

TEST_CASE("long fields do not exhaust the regular expression's stack", "[data]") {
  Input input("user,item\nu,a\nu," + std::string(3'000'000, 'x') + "\n");
  input.config.filters = {match("item", "^(x|y)*$", "drop")};
  REQUIRE(sequences_of(prepare(input.config)) == "u: a");
}

TEST_CASE("k-core goes on until nothing changes", "[data]") {
  // With 2 and 2: item d goes (one row), then user w (one row left), then item c (one row left), then user v keeps a,
  // b.
  Input input("user,item\nu,a\nw,c\nu,b\nv,a\nv,b\nw,d\nv,c\nx,a\n");
  input.config.columns.title = "item";
  input.config.filters = {k_core(2, 2)};
  const Dataset dataset = prepare(input.config);
  REQUIRE(sequences_of(dataset) == "u: a b | v: a b");
  REQUIRE(dataset.titles == Items{"a", "b"});
  const auto report = report_of(dataset)["rules"][0];
  REQUIRE(report["rows"] == 4);
  REQUIRE(report["users"] == 2);
  REQUIRE(report["items"] == 2);
  REQUIRE(report["rounds"] == 4);
  input.config.filters = {k_core(1, 3)};
  REQUIRE(sequences_of(prepare(input.config)) == "u: a | v: a | x: a");
}

TEST_CASE("nothing left says which rule took it", "[data]") {
  Input input("user,item\nu,a\nu,b\nv,c\n");
  input.config.filters = {match("item", "c", "drop"), k_core(3, 1)};
  REQUIRE_THROWS_WITH(
      prepare(input.config),
      "no interaction is left of 3 rows: the rule \"k_core\" dropped most, 2 (a user with fewer than 3 or an "
      "item with fewer than 1 interactions); look at data.filters");
  Input bare("user,item\n");
  REQUIRE_THROWS_WITH(prepare(bare.config), "data.files hold no rows");
  Input bad("user,item\nu\n");
  bad.config.on_bad_row = "skip";
  REQUIRE_THROWS_WITH(prepare(bad.config), "no interaction is left of 1 rows: 1 row cannot be read: " + bad.path() +
                                               ":2: 1 field where 2 are expected");
}

TEST_CASE("bad rows name file, line and reason; five are shown and all are counted", "[data]") {
  std::string text = "user,item,time\nu,a,1\nu,b\nu,c,x\nu,\xFF,1\n,d,1\nu,,1\nu,e,\nu,f,2,3\nu,g,2011-12-09\nu,h,2\n";
  Input input(text);
  input.config.columns.timestamp = "time";
  const std::string& path = input.path();
  REQUIRE_THROWS_WITH(
      prepare(input.config),
      "8 rows cannot be read: " + path + ":3: 2 fields where 3 are expected; " + path +
          ":4: the timestamp is neither a number nor a date like 2011-12-09 or 2011-12-09T12:50:00Z; " + path +
          ":5: invalid UTF-8 at byte 3 of the line; " + path +
          ":6: the user is empty (a filter \"missing\" drops such rows; data.sequence_by \"basket\" needs no user); " +
          path +
          ":7: the item is empty (a filter \"missing\" drops such rows); and 3 more. Mend the data, or "
          "set data.on_bad_row to \"skip\"");
  input.config.on_bad_row = "skip";
  const Dataset dataset = prepare(input.config);
  REQUIRE(sequences_of(dataset) == "u: a h");
  REQUIRE(report_of(dataset)["bad_rows"]["count"] == 8);
  REQUIRE(report_of(dataset)["bad_rows"]["shown"].size() == 5);
  REQUIRE(report_of(dataset)["rows"] == 10);
  REQUIRE_THAT(report_text(nlohmann::ordered_json::parse(dataset.report)), Contains("8 dropped: cannot be read\n"));
  Input header(
      "us\xFF"
      "er,item\nu,a\n");
  REQUIRE_THROWS_WITH(prepare(header.config), header.path() + ":1: invalid UTF-8 at byte 3 of the line");
}

TEST_CASE("titles come from most rows, or from a file", "[data]") {
  Input input("user,item,name\nu,a,\nu,a,cup\nu,b,?\nu,a,CUP\nu,a,cup\nu,b,jug\nv,b,jug\nv,c,\n");
  input.config.columns.title = "name";
  REQUIRE(prepare(input.config).titles == Items{"cup", "jug", ""});
  REQUIRE(prepare(input.config).title(1) == "jug");
  input.config.titles.file = input.folder.path("titles.tsv");
  input.config.titles.id_column = "sku";
  input.config.titles.title_column = "label";
  write_text(input.config.titles.file, "label\tsku\nglass\tc\nnot sold\tz\nbig jug\tb\n\"bo\txx");
  input.config.on_bad_row = "skip";
  const Dataset dataset = prepare(input.config);
  REQUIRE(dataset.titles == Items{"cup", "big jug", "glass"});
  REQUIRE(report_of(dataset)["bad_rows"]["count"] == 1);
  REQUIRE(report_of(dataset)["titles"] == 3);
  input.config.titles.file = input.folder.path("none.tsv");
  REQUIRE_THROWS_WITH(prepare(input.config), input.folder.path("none.tsv") + ": no such file");
}

TEST_CASE("provenance names the sources and how they were read, wherever they lie", "[data]") {
  Input one("user,item\nu,a\n"), other("user,item\nu,a\n");
  const Dataset a = prepare(one.config), b = prepare(other.config);
  REQUIRE(a.sources == b.sources);
  REQUIRE(a.config == b.config);
  REQUIRE(a.report == b.report);
  REQUIRE(a.hash == b.hash);
  const auto sources = nlohmann::json::parse(a.sources);
  REQUIRE(sources[0]["name"] == "part0.csv");
  REQUIRE(sources[0]["bytes"] == 14);
  REQUIRE(sources[0]["sha256"] == "530b9d1863b28c01f6e1701425586ebd07f46b038beb149bf52e71fa3a17b077");
}

TEST_CASE("any bytes give a dataset or one line of error", "[data]") {
  const TemporaryFolder folder;
  const std::string alphabet = "abu,;\t\"\n\r :0129-.T|\xC3\xA9\xFF";
  for (uint32_t round = 0; round < 1'500; ++round) {
    auto draw = [&, index = uint32_t{0}](uint32_t below) mutable {
      return philox({index++, 0, 0, 0}, round, 77)[0] % below;
    };
    std::string text = draw(3) == 0 ? "user,item,time\n" : "";
    if (draw(8) == 0)
      text = std::string(
          "\xFD"
          "7zXZ\0",
          6);
    if (draw(8) == 0) text = "BZh9";
    if (draw(8) == 0) text = "\x1F\x8B\x08";
    if (draw(8) == 0) text = "\x28\xB5\x2F\xFD";
    const bool any_byte = draw(4) == 0;
    for (uint32_t i = draw(400); i > 0; --i) {
      text += any_byte ? static_cast<char>(1 + draw(255)) : alphabet[draw(static_cast<uint32_t>(alphabet.size()))];
    }
    write_text(folder.path("data"), text);
    DataConfig config;
    config.files = {folder.path("data")};
    config.format = std::vector<std::string>{"csv", "inter", "sequences"}[draw(3)];
    config.csv.header = text.starts_with("user");
    config.columns =
        config.csv.header ? ColumnsConfig{"user", "item", "time", "", ""} : ColumnsConfig{"1", "2", "", "", "2"};
    config.on_bad_row = draw(4) == 0 ? "fail" : "skip";
    config.filters = {rule("duplicates"), match("1", "a+b|u", "drop"), k_core(1 + draw(2), 1 + draw(2))};
    try {
      const Dataset dataset = prepare(config);
      REQUIRE(dataset.interaction_count() > 0);
      REQUIRE(dataset.offsets[dataset.sequence_count()] == dataset.interaction_count());
      REQUIRE(*std::max_element(dataset.items.begin(), dataset.items.end()) == dataset.item_count() - 1);
    } catch (const Error& error) {
      const std::string message = error.what();
      INFO(message);
      REQUIRE(message.find('\n') == std::string::npos);
      REQUIRE(message.size() > 20);
    }
  }
}

TEST_CASE("Online Retail: the bundled rows give the published numbers", "[data]") {
  DataConfig config = shop();
  config.sequence_by = "basket";
  config.filters = shop_filters();
  config.filters.push_back(rule("duplicates", {"InvoiceNo", "StockCode"}));
  const Dataset baskets = prepare(config);
  const auto report = report_of(baskets);
  REQUIRE(report["rows"] == 541'909);
  REQUIRE(report["bad_rows"]["count"] == 0);
  REQUIRE(report["rules"][0]["rows"] == 9'288);
  REQUIRE(baskets.sequence_count() == 19'773);
  REQUIRE(baskets.item_count() == 3'900);
  REQUIRE(baskets.interaction_count() == 517'256);
  REQUIRE(baskets.title(baskets.find_item("85123A")) == "WHITE HANGING HEART T-LIGHT HOLDER");
  REQUIRE(report["times"]["first"] == "2010-12-01 08:26:00");
  REQUIRE(report["times"]["last"] == "2011-12-09 12:50:00");
  REQUIRE_THROWS_WITH(baskets.find_item("85123"), Contains("no item has the id \"85123\". Nearest: \"85123A\""));

  config.sequence_by = "user";
  config.filters = {rule("missing", {"CustomerID"})};
  const Dataset users = prepare(config);
  REQUIRE(report_of(users)["rules"][0]["rows"] == 135'080);
  REQUIRE(users.sequence_count() == 4'372);
  REQUIRE(report_of(users)["baskets"] == 22'190);
}

TEST_CASE("published counts of other data, where it lies beside the repository", "[data]") {
  DataConfig config;
  config.files = {shared_file("ml-1m/ml-1m.sasrec-ids.seq.txt.xz")};
  if (!std::filesystem::exists(config.files[0])) {
    WARN("skipped: " << config.files[0] << " is not there");
    return;
  }
  config.format = "sequences";
  config.titles.file = shared_file("ml-1m/items.tsv");
  config.titles.id_column = "sasrec_id";
  config.titles.title_column = "title";
  const Dataset movies = prepare(config);
  REQUIRE(movies.sequence_count() == 6'040);
  REQUIRE(movies.item_count() == 3'416);
  REQUIRE(movies.interaction_count() == 999'611);
  REQUIRE(movies.title(movies.find_item("109")) == "Toy Story (1995)");

  DataConfig inter;
  inter.format = "inter";
  inter.files = {shared_file("ml-100k/ml-100k.inter.xz")};
  const Dataset small = prepare(inter);
  REQUIRE(small.sequence_count() == 943);
  REQUIRE(small.item_count() == 1'682);
  REQUIRE(small.interaction_count() == 100'000);
  REQUIRE(report_of(small)["times"]["ties"].get<int64_t>() > 0);
}

}  // namespace itemloom::test
