// Tables as text: records of fields.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/text_source.h"

namespace itemloom {

// The separator ("," "\t" ";" "|" "::" " ") that gives the first record the most fields, or, where names are wanted,
// the one that makes most of these names fields of it. The first of that list wins a tie, with the tab before all.
std::string sniff_separator(std::string_view record, std::span<const std::string> wanted, bool quotes);

// Reads the records of a delimited file one by one.
//
// With `quotes`, a field that starts with a double quote ends with the next single one; separators, line ends and
// doubled quotes inside belong to it (RFC 4180). A quote elsewhere in a field is an ordinary character. Blank lines are
// passed over. Fields are never trimmed.
class RecordReader {
 public:
  // An empty separator is sniffed from the first record, see sniff_separator.
  RecordReader(const std::string& path, std::string separator, std::span<const std::string> wanted, bool quotes);

  // Moves to the next record; false after the last one.
  bool next();
  // Valid until next(). Undefined when problem() says something.
  std::span<const std::string_view> fields() const { return fields_; }
  // Why the record cannot be used ("invalid UTF-8 at byte 12 of the line"), or empty.
  const std::string& problem() const { return problem_; }
  // Of the record's first line, from 1.
  int64_t line_number() const { return source_.line_number(); }
  const std::string& path() const { return source_.path(); }
  const std::string& separator() const { return separator_; }

 private:
  // A field before its record is complete: a piece of the line or of unescaped_.
  struct Piece {
    size_t begin, size;
    bool unescaped;
  };

  void split();
  bool split_quoted();
  // Reads the quoted field that starts at `begin`; returns the index after its closing quote, npos when it has none.
  size_t take_quoted(size_t begin);

  TextSource source_;
  std::string separator_;
  bool quotes_;
  bool first_pending_ = false;  // the constructor has read the first line already
  std::vector<std::string_view> fields_;
  std::vector<Piece> pieces_;
  std::string unescaped_, problem_;
};

}  // namespace itemloom
