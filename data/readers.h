// Rows of input files, whatever their format.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/parallel.h"
#include "data/config.h"

namespace itemloom {

// One row: views that live until the next row. Fields that the data does not have are empty.
struct Row {
  std::string_view user, item, timestamp, basket, title;
  std::span<const std::string_view> fields;  // all of them, for filters
};

// The columns of the file that is being read.
struct Header {
  std::string path;
  std::vector<std::string> names;  // empty: the file names none
  int64_t columns = 0;

  // The index of a column that the user gave by name or, counted from 1, by number. Throws Error that names `key`, the
  // file and its columns when there is none, or more than one of that name.
  int64_t find(const std::string& column, const std::string& key) const;
  bool has(const std::string& column) const;
};

// Rows that cannot be read: all are counted, the first five are shown.
class BadRows {
 public:
  static constexpr size_t kShown = 5;

  explicit BadRows(const std::string& on_bad_row) : skip_(on_bad_row == "skip") {}

  void add(const std::string& path, int64_t line, std::string_view reason);
  int64_t count() const { return count_; }
  const std::vector<std::string>& shown() const { return shown_; }  // "rows.csv:17: 3 fields where 8 are expected"
  // "7 rows cannot be read: ...; ...; and 2 more"
  std::string summary() const;
  // Throws Error with the summary when there are any and they are not to be skipped.
  void finish() const;

 private:
  bool skip_;
  int64_t count_ = 0;
  std::vector<std::string> shown_;
};

struct RowSink {
  // A file begins. Filters look up their columns here.
  FunctionRef<void(const Header&)> begin_file;
  // Whether the row passes the filters.
  FunctionRef<bool(const Row&)> keep;
  // Takes a row that has an item and a sequence; returns why it cannot be used, or null.
  FunctionRef<const char*(const Row&)> take;
};

// What the columns of a config mean for its format: RecBole's names where none are given.
ColumnsConfig resolved_columns(const DataConfig& config);

// Hands the rows of all files to the sink in their order. A row that cannot be read goes to `bad_rows`: another number
// of fields than the header (without one: than the first row), invalid UTF-8, a quoted field that never ends, an empty
// item or sequence id, or what the sink says. Returns how many rows there were, blank lines apart. Throws Error with
// one line when a file cannot be read, or lacks a column.
int64_t read_rows(const DataConfig& config, const RowSink& sink, BadRows& bad_rows);

// Reads the table of titles: take(id, title) for every row.
void read_titles(const TitlesConfig& config, FunctionRef<void(std::string_view id, std::string_view title)> take,
                 BadRows& bad_rows);

}  // namespace itemloom
