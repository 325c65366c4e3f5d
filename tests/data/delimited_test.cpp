#include "data/delimited.h"

#include <string>
#include <vector>

#include "core/edit_distance.h"
#include "data/text.h"
#include "data/timestamp.h"
#include "data/vocabulary.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom::test {
namespace {

using Record = std::vector<std::string>;
using Catch::Matchers::Contains;

// Records as lists of fields; one that has a problem as {"!", problem}.
std::vector<Record> records_of(const std::string& text, const std::string& separator = ",", bool quotes = true) {
  const TemporaryFolder folder;
  write_text(folder.path("t"), text);
  RecordReader reader(folder.path("t"), separator, {}, quotes);
  std::vector<Record> records;
  while (reader.next()) {
    records.emplace_back();
    if (reader.problem().empty()) {
      for (std::string_view field : reader.fields()) records.back().emplace_back(field);
    } else {
      records.back() = {"!" + std::to_string(reader.line_number()), reader.problem()};
    }
  }
  return records;
}

std::string sniffed(const std::string& record, const std::vector<std::string>& wanted = {}) {
  return sniff_separator(record, wanted, true);
}

// Ticks and unit of several times read one after the other; "!" where one is refused.
std::string ticks_of_all(const std::vector<std::string>& texts) {
  TimestampScale scale;
  std::vector<int64_t> all;
  for (const std::string& text : texts) {
    Timestamp timestamp;
    int64_t ticks = 0;
    bool rescale = false;
    if (!parse_timestamp(text, timestamp) || scale.to_ticks(timestamp, ticks, rescale)) return "!";
    if (rescale) {
      for (int64_t& earlier : all) earlier *= TimestampScale::kMillion;
    }
    all.push_back(ticks);
  }
  std::string joined = scale.unit();
  for (int64_t ticks : all) joined += " " + std::to_string(ticks);
  return joined;
}

}  // namespace

TEST_CASE("records are split at separators, also of two characters", "[data]") {
  using Records = std::vector<Record>;
  REQUIRE(records_of("a,b,c\n\n1,,3\r\n,\n") == Records{{"a", "b", "c"}, {"1", "", "3"}, {"", ""}});
  REQUIRE(records_of("1::2:3::4\n", "::") == Records{{"1", "2:3", "4"}});
  REQUIRE(records_of("a\tb c\t\n", "\t") == Records{{"a", "b c", ""}});
}

TEST_CASE("quoted fields hold separators, line ends and doubled quotes", "[data]") {
  using Records = std::vector<Record>;
  REQUIRE(records_of("\"a,b\",c\n") == Records{{"a,b", "c"}});
  REQUIRE(records_of("a,\"x\"\"y\"\"\",c\n") == Records{{"a", "x\"y\"", "c"}});
  REQUIRE(records_of("a,\"line one\r\nline two\",c\nd,e,f\n") ==
          Records{{"a", "line one\r\nline two", "c"}, {"d", "e", "f"}});
  REQUIRE(records_of("\"\",\"\"\"\"\n") == Records{{"", "\""}});
  REQUIRE(records_of("5\" nail,b\n") == Records{{"5\" nail", "b"}});
  REQUIRE(records_of("\"a\"\"b\n,\"\"\",\"c\nd\"\n") == Records{{"a\"b\n,\"", "c\nd"}});
  REQUIRE(records_of("\"a\",b\n", ",", false) == Records{{"\"a\"", "b"}});
}

TEST_CASE("records that cannot be read say why, and reading goes on after their first line", "[data]") {
  using Records = std::vector<Record>;
  REQUIRE(records_of("a,\"b\nc,d\n") == Records{{"!1", "a quoted field is never closed"}, {"c", "d"}});
  REQUIRE(records_of("\"a\"b,c\nd,e\n") == Records{{"!1", "text follows the closing quote of a field"}, {"d", "e"}});
  REQUIRE(records_of("a\nb\xFF"
                     "c\nd\n") == Records{{"a"}, {"!2", "invalid UTF-8 at byte 2 of the line"}, {"d"}});
  REQUIRE(records_of("\"a\nb\xC3\",c\nd,e\n")[0][1] == "invalid UTF-8 at byte 5 of the line");
  // A field that would swallow megabytes is given up.
  std::string text = "x,\"y\n";
  for (int i = 0; i < 300'000; ++i) text += "12345678\n";
  REQUIRE(records_of(text).size() == 300'001);
}

TEST_CASE("the separator is sniffed from the first record", "[data]") {
  REQUIRE(sniffed("a,b,c") == ",");
  REQUIRE(sniffed("a\tb,c\td") == "\t");
  REQUIRE(sniffed("a;b;1,5") == ";");
  REQUIRE(sniffed("1::1193::5::978300760") == "::");
  REQUIRE(sniffed("a|b") == "|");
  REQUIRE(sniffed("1 2") == " ");
  REQUIRE(sniffed("single") == ",");
  REQUIRE(sniffed("\"a;b;c;d\",e") == ",");
  REQUIRE(sniffed("a;b,c;d", {"b,c"}) == ";");
  REQUIRE(sniffed("a b c,d e f", {"a b c"}) == ",");
  const TemporaryFolder folder;
  write_text(folder.path("t"), "\n\r\n");
  REQUIRE_THROWS_WITH(RecordReader(folder.path("t"), "", {}, true),
                      folder.path("t") + " holds nothing but blank lines");
}

TEST_CASE("times are integers, decimals and dates", "[data]") {
  REQUIRE(ticks_of_all({"978300760", "-5", "0"}) == "unit of the source 978300760 -5 0");
  REQUIRE(ticks_of_all({"881250949.0", "881250949."}) == "unit of the source 881250949 881250949");
  REQUIRE(ticks_of_all({"8.5e2", "1e3"}) == "unit of the source 850 1000");
  REQUIRE(ticks_of_all({"3", "2.5", "-0.25", "-1.75"}) ==
          "millionth of the unit of the source 3000000 2500000 -250000 -1750000");
  REQUIRE(ticks_of_all({"1970-01-01", "1970-01-02 00:00:01", "1969-12-31T23:59:59Z"}) ==
          "seconds since 1970-01-01 UTC 0 86401 -1");
  REQUIRE(ticks_of_all({"2011-12-09 12:50", "2011-12-09T13:50:00+01:00", "2011-12-09T07:20:00-0530"}) ==
          "seconds since 1970-01-01 UTC 1323435000 1323435000 1323435000");
  REQUIRE(ticks_of_all({"2000-02-29", "2000-03-01T00:00:00.25Z", "1900-02-28", "1900-03-01"}) ==
          "microseconds since 1970-01-01 UTC 951782400000000 951868800250000 -2203977600000000 -2203891200000000");
  for (const char* bad : {"",
                          " ",
                          "abc",
                          "12x",
                          "1.2.3",
                          "2011-13-01",
                          "2011-02-29",
                          "1900-02-29",
                          "2011-12-09x",
                          "2011-12-09T",
                          "2011-12-09 25:00",
                          "2011-12-09 12:50:00+99",
                          "2011-1-1",
                          "nan",
                          "inf",
                          "1e30",
                          "99999999999999999999999",
                          "--5",
                          "2011-12-09 12:50:00.",
                          "+5"}) {
    INFO(bad);
    REQUIRE(ticks_of_all({bad}) == "!");
  }
  REQUIRE(ticks_of_all({"5", "2011-12-09"}) == "!");
  REQUIRE(ticks_of_all({"2011-12-09", "5"}) == "!");
  REQUIRE(ticks_of_all({"9223372036854775807"}) == "unit of the source 9223372036854775807");
  REQUIRE(ticks_of_all({"1.5", "9223372036854775807"}) == "!");
}

TEST_CASE("points in time that a person gives are in the data's unit", "[data]") {
  const std::string seconds = "seconds since 1970-01-01 UTC", source = "unit of the source";
  REQUIRE(ticks_of("2011-12-09 12:50", seconds, "k") == 1323435000);
  REQUIRE(ticks_of("2011-12-09 12:50:00.5", seconds, "k") == 1323435001);
  REQUIRE(ticks_of("978300760", source, "k") == 978300760);
  REQUIRE(ticks_of("2.5", "millionth of the unit of the source", "k") == 2500000);
  REQUIRE_THROWS_WITH(ticks_of("12", seconds, "data.temporal.test_from"),
                      Contains("data.temporal.test_from: \"12\" is not a time like the data's (a date"));
  REQUIRE_THROWS_WITH(ticks_of("2011-12-09", source, "k"), Contains("is not a time like the data's (a number)"));
  REQUIRE(format_ticks(1323435000, seconds) == "2011-12-09 12:50:00");
  REQUIRE(format_ticks(-1, seconds) == "1969-12-31 23:59:59");
  REQUIRE(format_ticks(951868800250000, "microseconds since 1970-01-01 UTC") == "2000-03-01 00:00:00.250000");
  REQUIRE(format_ticks(-1750000, "millionth of the unit of the source") == "-2.250000");
  // Every day of four centuries there and back.
  for (int64_t day = -150'000; day < 150'000; day += 7) {
    Timestamp timestamp;
    REQUIRE(parse_timestamp(format_ticks(86'400 * day + 3'661, seconds), timestamp));
    REQUIRE(timestamp.whole == 86'400 * day + 3'661);
  }
}

TEST_CASE("UTF-8 is judged strictly", "[data]") {
  for (const char* good :
       {"", "plain text", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "12345678\xC3\xA9 12345678"}) {
    REQUIRE(first_invalid_utf8(good) == -1);
  }
  REQUIRE(first_invalid_utf8("caf\xE9") == 3);
  REQUIRE(first_invalid_utf8("\xC0\x80") == 0);          // overlong
  REQUIRE(first_invalid_utf8("\xED\xA0\x80") == 0);      // a surrogate
  REQUIRE(first_invalid_utf8("\xF4\x90\x80\x80") == 0);  // beyond the last code point
  REQUIRE(first_invalid_utf8("12345678"
                             "12345\xE2\x82") == 13);
  REQUIRE(in_quotes("a\nb\xFF\xC3\xA9") == "\"a\\x0Ab\\xFF\xC3\xA9\"");
  REQUIRE(in_quotes(std::string(100, 'x')).size() < 70);
  REQUIRE(grouped(0) == "0");
  REQUIRE(grouped(-1234567) == "-1,234,567");
  REQUIRE(grouped(-123) == "-123");
  REQUIRE(grouped(1000) == "1,000");
}

TEST_CASE("edit distances", "[data]") {
  REQUIRE(edit_distance("kitten", "sitting", 9) == 3);
  REQUIRE(edit_distance("abcd", "abdc", 9) == 1);
  REQUIRE(edit_distance("", "abc", 9) == 3);
  REQUIRE(edit_distance("abc", "abc", 0) == 0);
  REQUIRE(edit_distance("abcdef", "ghijkl", 2) == 3);
  REQUIRE(edit_distance("ab", "abcdefgh", 2) == 3);
}

TEST_CASE("a vocabulary numbers ids in the order in which they come", "[data]") {
  Vocabulary vocabulary;
  REQUIRE(vocabulary.find("a") == -1);
  for (int i = 0; i < 20'000; ++i) REQUIRE(vocabulary.add("id" + std::to_string(i)) == i);
  REQUIRE(vocabulary.add("") == 20'000);
  REQUIRE(vocabulary.add(std::string("longer than eight bytes \xC3\xA9")) == 20'001);
  for (int i = 0; i < 20'000; ++i) {
    REQUIRE(vocabulary.find("id" + std::to_string(i)) == i);
    REQUIRE(vocabulary.add("id" + std::to_string(i)) == i);
  }
  REQUIRE(vocabulary.find("id20000") == -1);
  REQUIRE(vocabulary[20'000] == "");
  std::vector<int32_t> numbers(20'002, -1);
  numbers[7] = 0;
  numbers[19'999] = 1;
  const Vocabulary kept = vocabulary.renumbered(numbers);
  REQUIRE(kept.size() == 2);
  REQUIRE(kept.find("id7") == 0);
  REQUIRE(kept[1] == "id19999");
  StringTable twice;
  twice.add("x\n");
  twice.add("x\n");
  REQUIRE_THROWS_WITH(Vocabulary(twice), "the id \"x\\x0A\" comes twice");
}

TEST_CASE("ids that were mistyped are found", "[data]") {
  Vocabulary vocabulary;
  for (const char* id : {"85123A", "71053", "84406B", "85123B", "22423"}) vocabulary.add(id);
  REQUIRE(vocabulary.nearest("85123", 2) == std::vector<std::string>{"85123A", "85123B"});
  REQUIRE(vocabulary.nearest("71035", 1) == std::vector<std::string>{"71053"});
  REQUIRE(vocabulary.nearest("zzzzz", 3).empty());
  REQUIRE(suggestion(vocabulary, "2242").starts_with(" Nearest: \"22423\""));
  REQUIRE(suggestion(vocabulary, "zzzzz").empty());
}

}  // namespace itemloom::test
