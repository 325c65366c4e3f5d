#include "data/readers.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "core/check.h"
#include "data/delimited.h"
#include "data/text.h"
#include "data/text_source.h"

namespace itemloom {
namespace {

constexpr int64_t kAbsent = -1;

std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kShownNames = 20;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShownNames); ++i) text += (i == 0 ? "" : ", ") + in_quotes(names[i]);
  return names.size() > kShownNames ? text + ", ..." : text;
}

struct Columns {
  int64_t user, item, timestamp, basket, title;
};

std::string_view field(std::span<const std::string_view> fields, int64_t column) {
  return column == kAbsent ? std::string_view() : fields[static_cast<size_t>(column)];
}

// Reads the header (or counts the columns of the first row, which `reader` then stands at).
Header read_header(RecordReader& reader, bool header, bool typed) {
  Header result{reader.path(), {}, 0};
  CHECK(reader.next(), reader.path(), " holds nothing but blank lines");
  CHECK(reader.problem().empty(), reader.path(), ":", reader.line_number(), ": ", reader.problem());
  result.columns = static_cast<int64_t>(reader.fields().size());
  if (!header) return result;
  for (std::string_view name : reader.fields()) {
    const size_t colon = typed ? name.find(':') : name.size();
    CHECK(colon != std::string_view::npos, reader.path(), " is no RecBole table: its column ", in_quotes(name),
          " has no type (as in user_id:token)");
    result.names.emplace_back(name.substr(0, colon));
  }
  return result;
}

Columns find_columns(const Header& header, const ColumnsConfig& names, const DataConfig& config) {
  const auto find = [&](const std::string& name, const char* key) {
    return name.empty() ? kAbsent : header.find(name, join_message("data.columns.", key));
  };
  const bool optional_time = config.format == "inter" && config.columns.timestamp.empty();
  return {.user = find(names.user, "user"),
          .item = find(names.item, "item"),
          .timestamp = optional_time && !header.has(names.timestamp) ? kAbsent : find(names.timestamp, "timestamp"),
          .basket = find(names.basket, "basket"),
          .title = find(names.title, "title")};
}

// Reads a row's required fields and hands it on; returns why it cannot be used, or null.
const char* hand_over(const Row& row, const DataConfig& config, const RowSink& sink) {
  if (!sink.keep(row)) return nullptr;
  if (row.item.empty()) return "the item is empty (a filter \"missing\" drops such rows)";
  // Rows without a basket would all be of one, and strangers' items would count as bought together.
  if (!config.columns.basket.empty() && row.basket.empty()) {
    return "the basket is empty (a filter \"missing\" drops such rows)";
  }
  if (config.sequence_by == "user" && row.user.empty()) {
    return "the user is empty (a filter \"missing\" drops such rows; data.sequence_by \"basket\" needs no user)";
  }
  return sink.take(row);
}

int64_t read_table(const DataConfig& config, const std::string& path, const RowSink& sink, BadRows& bad_rows) {
  const bool csv = config.format == "csv";
  const ColumnsConfig names = resolved_columns(config);
  std::vector<std::string> wanted = {names.user, names.item, names.timestamp, names.basket, names.title};
  std::erase(wanted, "");
  const std::string separator = !csv ? "\t" : config.csv.separator == "auto" ? "" : config.csv.separator;
  RecordReader reader(path, separator, wanted, csv);
  const bool has_header = !csv || config.csv.header;
  const Header header = read_header(reader, has_header, !csv);
  const Columns columns = find_columns(header, names, config);
  sink.begin_file(header);

  int64_t rows = 0;
  for (bool more = has_header ? reader.next() : true; more; more = reader.next()) {
    ++rows;
    const auto fields = reader.fields();
    if (!reader.problem().empty()) {
      bad_rows.add(path, reader.line_number(), reader.problem());
    } else if (static_cast<int64_t>(fields.size()) != header.columns) {
      bad_rows.add(path, reader.line_number(),
                   join_message(fields.size(), fields.size() == 1 ? " field" : " fields", " where ", header.columns,
                                header.columns == 1 ? " is expected" : " are expected"));
    } else {
      const Row row{.user = field(fields, columns.user),
                    .item = field(fields, columns.item),
                    .timestamp = field(fields, columns.timestamp),
                    .basket = field(fields, columns.basket),
                    .title = field(fields, columns.title),
                    .fields = fields};
      if (const char* reason = hand_over(row, config, sink)) bad_rows.add(path, reader.line_number(), reason);
    }
  }
  return rows;
}

bool is_space(char c) {
  return c == ' ' || c == '\t';
}

// Takes the next word off the front; empty when there is none.
std::string_view take_word(std::string_view& text) {
  size_t begin = 0;
  while (begin < text.size() && is_space(text[begin])) ++begin;
  size_t end = begin;
  while (end < text.size() && !is_space(text[end])) ++end;
  const std::string_view word = text.substr(begin, end - begin);
  text.remove_prefix(end);
  return word;
}

int64_t read_sequences(const DataConfig& config, const std::string& path, const RowSink& sink, BadRows& bad_rows) {
  TextSource source(path);
  sink.begin_file(Header{path, {"user", "item"}, 2});
  int64_t rows = 0;
  while (source.next_line()) {
    std::string_view rest = source.line();
    std::array<std::string_view, 2> fields = {take_word(rest), take_word(rest)};
    if (fields[0].empty()) continue;
    ++rows;
    if (const int64_t bad = first_invalid_utf8(source.line()); bad >= 0) {
      bad_rows.add(path, source.line_number(), join_message("invalid UTF-8 at byte ", bad + 1, " of the line"));
      continue;
    }
    if (fields[1].empty()) {
      bad_rows.add(path, source.line_number(), "a user without items");
      continue;
    }
    --rows;  // counted by item below
    for (; !fields[1].empty(); fields[1] = take_word(rest)) {
      ++rows;
      const Row row{.user = fields[0], .item = fields[1], .timestamp = {}, .basket = {}, .title = {}, .fields = fields};
      if (const char* reason = hand_over(row, config, sink)) bad_rows.add(path, source.line_number(), reason);
    }
  }
  return rows;
}

}  // namespace

int64_t Header::find(const std::string& column, const std::string& key) const {
  const auto found = std::find(names.begin(), names.end(), column);
  if (found != names.end()) {
    CHECK(std::find(found + 1, names.end(), column) == names.end(), key, ": ", path, " has more than one column ",
          in_quotes(column), "; give the column's number instead");
    return found - names.begin();
  }
  int64_t number = 0;
  const auto [stop, error] = std::from_chars(column.data(), column.data() + column.size(), number);
  if (error == std::errc() && stop == column.data() + column.size()) {
    CHECK(number >= 1 && number <= columns, key, ": ", path, " has no column ", column, "; it has ", columns);
    return number - 1;
  }
  CHECK(!names.empty(), key, ": ", path, " is read without a header, so columns are numbers from \"1\" to \"", columns,
        "\", not ", in_quotes(column));
  fail(key, ": ", path, " has no column ", in_quotes(column), "; its columns are ", listed(names));
}

bool Header::has(const std::string& column) const {
  return std::find(names.begin(), names.end(), column) != names.end();
}

void BadRows::add(const std::string& path, int64_t line, std::string_view reason) {
  if (shown_.size() < kShown) shown_.push_back(join_message(path, ":", line, ": ", reason));
  ++count_;
}

std::string BadRows::summary() const {
  std::string text = grouped(count_) + (count_ == 1 ? " row cannot be read: " : " rows cannot be read: ");
  for (size_t i = 0; i < shown_.size(); ++i) text += (i == 0 ? "" : "; ") + shown_[i];
  const int64_t more = count_ - static_cast<int64_t>(shown_.size());
  return more > 0 ? text + "; and " + grouped(more) + " more" : text;
}

void BadRows::finish() const {
  CHECK(count_ == 0 || skip_, summary(), ". Mend the data, or set data.on_bad_row to \"skip\"");
}

ColumnsConfig resolved_columns(const DataConfig& config) {
  ColumnsConfig columns = config.columns;
  if (config.format == "inter") {
    if (columns.user.empty() && config.sequence_by == "user") columns.user = "user_id";
    if (columns.item.empty()) columns.item = "item_id";
    if (columns.timestamp.empty()) columns.timestamp = "timestamp";
  }
  return columns;
}

int64_t read_rows(const DataConfig& config, const RowSink& sink, BadRows& bad_rows) {
  CHECK(!config.files.empty(), "data.files is empty: name at least one input file");
  if (config.format != "sequences") {
    const ColumnsConfig columns = resolved_columns(config);
    CHECK(!columns.item.empty(), "data.columns.item is empty: name the column with the item's id");
    CHECK(config.sequence_by != "user" || !columns.user.empty(),
          "data.columns.user is empty: name the column with the user's id, or set data.sequence_by to \"basket\"");
    CHECK(config.sequence_by != "basket" || !columns.basket.empty(),
          "data.columns.basket is empty: data.sequence_by \"basket\" needs the column with the basket's id");
  }
  int64_t rows = 0;
  for (const std::string& path : config.files) {
    rows += config.format == "sequences" ? read_sequences(config, path, sink, bad_rows)
                                         : read_table(config, path, sink, bad_rows);
  }
  return rows;
}

void read_titles(const TitlesConfig& config, FunctionRef<void(std::string_view, std::string_view)> take,
                 BadRows& bad_rows) {
  const std::vector<std::string> wanted = {config.id_column, config.title_column};
  RecordReader reader(config.file, config.separator == "auto" ? "" : config.separator, wanted, true);
  const Header header = read_header(reader, config.header, false);
  const int64_t id = header.find(config.id_column, "data.titles.id_column");
  const int64_t title = header.find(config.title_column, "data.titles.title_column");
  for (bool more = config.header ? reader.next() : true; more; more = reader.next()) {
    if (!reader.problem().empty()) {
      bad_rows.add(config.file, reader.line_number(), reader.problem());
    } else if (static_cast<int64_t>(reader.fields().size()) <= std::max(id, title)) {
      bad_rows.add(config.file, reader.line_number(), "too few fields for the id and the title");
    } else {
      take(field(reader.fields(), id), field(reader.fields(), title));
    }
  }
}

}  // namespace itemloom
