// What to read, how to clean it, and how sequences are cut, held out and masked.
#pragma once

#include "core/config.h"

namespace itemloom {

// Where things are in a row: a column's name in the header, or its number from "1" on; empty: not there.
struct ColumnsConfig {
  std::string user = {};
  std::string item = {};
  std::string timestamp = {};
  std::string basket = {};
  std::string title = {};

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("user", user, {.help = "Column with the user's id. Empty: user_id for inter, none for csv."});
    visit.field("item", item, {.help = "Column with the item's id. Empty: item_id for inter; csv needs it."});
    visit.field("timestamp", timestamp,
                {.help = "Column with the time: an integer, a decimal number or an ISO 8601 date. Empty: timestamp for "
                         "inter where the file has it, else the rows' order is the time order."});
    visit.field(
        "basket", basket,
        {.help = "Column with the id of the basket (invoice, session); rows without one are refused. Empty: none."});
    visit.field("title", title, {.help = "Column with the item's title. Empty: none."});
  }
};

inline std::vector<std::string> separator_choices() {
  return {"auto", ",", "\t", ";", "|", "::", " "};
}

struct CsvConfig {
  std::string separator = "auto";
  bool header = true;

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("separator", separator,
                {.help = "Between fields; auto: found from the first line.", .choices = separator_choices()});
    visit.field("header", header,
                {.help = "The first line names the columns. Without it columns are numbers from \"1\" on."});
  }
};

// An extra file with titles of items.
struct TitlesConfig {
  std::string file = {};
  std::string id_column = "1";
  std::string title_column = "2";
  std::string separator = "auto";
  bool header = true;

  template <class Visitor>
  void describe(Visitor& visit) {
    const bool given = !file.empty();
    const std::string when = "data.titles.file is given";
    visit.field("file", file, {.help = "Table with one item a line. Empty: none.", .is_path = true});
    visit.field(
        "id_column", id_column,
        {.help = "Column with the item's id: name or number from \"1\" on.", .active = given, .active_when = when});
    visit.field("title_column", title_column,
                {.help = "Column with its title: name or number.", .active = given, .active_when = when});
    visit.field("separator", separator,
                {.help = "Between fields; auto: found from the first line.",
                 .choices = separator_choices(),
                 .active = given,
                 .active_when = when});
    visit.field("header", header, {.help = "The first line names the columns.", .active = given, .active_when = when});
  }
};

// One step of cleaning. Steps run in the order given, and each reports how many rows it dropped.
struct FilterConfig {
  std::string rule = "match";
  std::string column = {};
  std::string pattern = {};
  std::string action = "drop";
  std::vector<std::string> columns = {};
  int64_t users = 5;
  int64_t items = 5;

  template <class Visitor>
  void describe(Visitor& visit) {
    const bool match = rule == "match", core = rule == "k_core";
    const bool many = rule == "missing" || rule == "positive" || rule == "duplicates";
    const std::string when_match = "rule is match", when_core = "rule is k_core";
    visit.field("rule", rule,
                {.help = "match: rows whose column holds the pattern; missing: drops rows with an empty field in any "
                         "of the columns; positive: drops rows without a number above zero in each of the columns; "
                         "duplicates: drops rows that repeat an earlier one; k_core: drops users and items with too "
                         "few interactions, again and again until none is left.",
                 .choices = {"match", "missing", "positive", "duplicates", "k_core"}});
    visit.field("column", column,
                {.help = "The column to look at: name or number.", .active = match, .active_when = when_match});
    visit.field("pattern", pattern,
                {.help = "Regular expression (ECMAScript) that is searched for in the field.",
                 .active = match,
                 .active_when = when_match});
    visit.field("action", action,
                {.help = "drop: drops the rows that match; keep: drops the others.",
                 .choices = {"drop", "keep"},
                 .active = match,
                 .active_when = when_match});
    visit.field("columns", columns,
                {.help = "The columns to look at: names or numbers. For duplicates, empty: user, item, time and "
                         "basket, as far as they are known.",
                 .active = many,
                 .active_when = "rule is missing, positive or duplicates"});
    visit.field(
        "users", users,
        {.help = "Users with fewer interactions are dropped.", .minimum = 1, .active = core, .active_when = when_core});
    visit.field(
        "items", items,
        {.help = "Items with fewer interactions are dropped.", .minimum = 1, .active = core, .active_when = when_core});
  }
};

struct TemporalSplitConfig {
  std::string validation_from = {};
  std::string test_from = {};

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field(
        "validation_from", validation_from,
        {.help = "Interactions from this time on are validation: an ISO date, or a number in the data's unit."});
    visit.field("test_from", test_from, {.help = "Interactions from this time on are test; after validation_from."});
  }
};

struct DataConfig {
  std::vector<std::string> files;
  std::string format = "csv";
  ColumnsConfig columns;
  CsvConfig csv;
  TitlesConfig titles;
  std::string sequence_by = "user";
  std::string on_bad_row = "fail";
  std::vector<FilterConfig> filters;
  std::string split = "leave_one_out";
  TemporalSplitConfig temporal;
  int64_t max_length = 200;
  std::string windows = "last";
  int64_t window_stride = 0;

  template <class Visitor>
  void describe(Visitor& visit) {
    const bool csv_format = format == "csv", table = csv_format || format == "inter", raw = format != "prepared";
    const std::string when_table = "data.format is csv or inter", when_raw = "data.format is csv, inter or sequences";
    visit.field("files", files,
                {.help = "The input files, read one after the other; .gz, .xz, .zst and .bz2 are unpacked on the way.",
                 .is_path = true});
    visit.field("format", format,
                {.help = "csv: a table with any columns; inter: RecBole's typed table; sequences: `user item item ...` "
                         "a line, oldest first; prepared: what `itemloom prepare` wrote; several files are shards of "
                         "one data set, in "
                         "which equal ids are the same user and item.",
                 .choices = {"csv", "inter", "sequences", "prepared"}});
    visit.group("columns", columns, {.help = "Where things are in a row.", .active = table, .active_when = when_table});
    visit.group("csv", csv,
                {.help = "How a csv file is written.", .active = csv_format, .active_when = "data.format is csv"});
    visit.group("titles", titles,
                {.help = "Titles of items from a file of their own.", .active = raw, .active_when = when_raw});
    visit.field("sequence_by", sequence_by,
                {.help = "What makes a sequence. user: all interactions of a user, rows without a user are refused; "
                         "basket: each basket is one.",
                 .choices = {"user", "basket"},
                 .active = table,
                 .active_when = when_table});
    visit.field("on_bad_row", on_bad_row,
                {.help = "fail: a row that cannot be read ends the run; skip: it is counted and left out.",
                 .choices = {"fail", "skip"},
                 .active = raw,
                 .active_when = when_raw});
    visit.list("filters", filters,
               {.help = "Steps of cleaning, in this order.", .active = raw, .active_when = when_raw});
    visit.field("split", split,
                {.help = "leave_one_out: the last item of a sequence is test, the one before it validation; temporal: "
                         "what comes after two points in time.",
                 .choices = {"leave_one_out", "temporal"}});
    visit.group(
        "temporal", temporal,
        {.help = "The temporal split.", .active = split == "temporal", .active_when = "data.split is temporal"});
    visit.field("max_length", max_length,
                {.help = "Items the model sees of a sequence at most.", .minimum = 2, .maximum = 65536});
    visit.field("windows", windows,
                {.help = "What training takes of longer sequences. last: their last max_length items; sliding: windows "
                         "of max_length over all of it.",
                 .choices = {"last", "sliding"}});
    visit.field("window_stride", window_stride,
                {.help = "Items between the starts of two windows; 0: max_length, no overlap.",
                 .minimum = 0,
                 .active = windows == "sliding",
                 .active_when = "data.windows is sliding"});
  }
};

struct MaskingConfig {
  double probability = 0.2;
  double mask_last_share = 0.1;
  std::string replacement = "mask";

  template <class Visitor>
  void describe(Visitor& visit) {
    visit.field("probability", probability,
                {.help = "Each item is masked with this probability; at least one of a sequence is.",
                 .above = 0.0,
                 .maximum = 1.0});
    visit.field("mask_last_share", mask_last_share,
                {.help = "Share of the training sequences of which only the last item is masked, as in evaluation.",
                 .minimum = 0.0,
                 .maximum = 1.0});
    visit.field("replacement", replacement,
                {.help = "What stands in a masked place. mask: always the mask; bert: the mask (80 %), any item (10 %) "
                         "or the item itself (10 %).",
                 .choices = {"mask", "bert"}});
  }
};

}  // namespace itemloom
