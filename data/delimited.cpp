#include "data/delimited.h"

#include <algorithm>
#include <array>

#include "core/check.h"
#include "data/text.h"

namespace itemloom {
namespace {

constexpr auto npos = std::string_view::npos;

// Fields of one line, quotes taken away but doubled quotes left: enough to compare names and to count.
std::vector<std::string_view> roughly_split(std::string_view line, std::string_view separator, bool quotes) {
  std::vector<std::string_view> fields;
  for (size_t begin = 0;;) {
    size_t end = npos;
    if (quotes && begin < line.size() && line[begin] == '"') {
      const size_t closing = line.find('"', begin + 1);
      end = closing == npos ? npos : line.find(separator, closing);
      fields.push_back(line.substr(begin + 1, closing == npos ? npos : closing - begin - 1));
    } else {
      end = line.find(separator, begin);
      fields.push_back(line.substr(begin, end == npos ? npos : end - begin));
    }
    if (end == npos) return fields;
    begin = end + separator.size();
  }
}

}  // namespace

std::string sniff_separator(std::string_view record, std::span<const std::string> wanted, bool quotes) {
  static constexpr std::array<std::string_view, 6> kSeparators = {"\t", ",", ";", "|", "::", " "};
  std::string_view best = kSeparators[1];
  std::pair<int64_t, size_t> best_score = {0, 1};  // wanted names found, fields
  for (std::string_view separator : kSeparators) {
    const auto fields = roughly_split(record, separator, quotes);
    const int64_t found = std::count_if(wanted.begin(), wanted.end(), [&](const std::string& name) {
      return std::find(fields.begin(), fields.end(), name) != fields.end();
    });
    const std::pair score = {found, fields.size()};
    if (score > best_score) {
      best_score = score;
      best = separator;
    }
  }
  return std::string(best);
}

RecordReader::RecordReader(const std::string& path, std::string separator, std::span<const std::string> wanted,
                           bool quotes)
    : source_(path), separator_(std::move(separator)), quotes_(quotes) {
  do {
    first_pending_ = source_.next_line();
  } while (first_pending_ && source_.line().empty());
  CHECK(first_pending_, path, " holds nothing but blank lines");
  if (separator_.empty()) separator_ = sniff_separator(source_.line(), wanted, quotes);
}

bool RecordReader::next() {
  if (!std::exchange(first_pending_, false)) {
    do {
      if (!source_.next_line()) return false;
    } while (source_.line().empty());
  }
  problem_.clear();
  fields_.clear();
  if (!quotes_ || source_.line().find('"') == npos) {
    split();
  } else if (!split_quoted()) {
    return true;
  }
  if (const int64_t bad = first_invalid_utf8(source_.line()); bad >= 0) {
    problem_ = join_message("invalid UTF-8 at byte ", bad + 1, " of the line");
  }
  return true;
}

void RecordReader::split() {
  const std::string_view line = source_.line();
  const bool single = separator_.size() == 1;
  for (size_t begin = 0;;) {
    const size_t end = single ? line.find(separator_[0], begin) : line.find(separator_, begin);
    if (end == npos) return fields_.push_back(line.substr(begin));
    fields_.push_back(line.substr(begin, end - begin));
    begin = end + separator_.size();
  }
}

bool RecordReader::split_quoted() {
  pieces_.clear();
  unescaped_.clear();
  size_t begin = 0;
  for (;;) {
    size_t end;
    if (begin < source_.line().size() && source_.line()[begin] == '"') {
      end = take_quoted(begin);
      if (end == npos) {
        problem_ = "a quoted field is never closed";
        source_.forget_extensions();
        return false;
      }
      if (end < source_.line().size() && source_.line().compare(end, separator_.size(), separator_) != 0) {
        problem_ = "text follows the closing quote of a field";
        source_.forget_extensions();
        return false;
      }
    } else {
      end = std::min(source_.line().find(separator_, begin), source_.line().size());
      pieces_.push_back({begin, end - begin, false});
    }
    if (end >= source_.line().size()) break;
    begin = end + separator_.size();
  }
  const std::string_view line = source_.line();
  for (const Piece& piece : pieces_) {
    fields_.push_back((piece.unescaped ? std::string_view(unescaped_) : line).substr(piece.begin, piece.size));
  }
  return true;
}

size_t RecordReader::take_quoted(size_t begin) {
  const size_t unescaped_begin = unescaped_.size();
  bool escapes = false;
  size_t from = begin + 1;  // what is not in unescaped_ yet
  size_t search = from;
  for (;;) {
    const size_t quote = source_.line().find('"', search);
    if (quote == npos) {
      search = source_.line().size();
      if (!source_.extend_line()) return npos;
      continue;
    }
    const std::string_view line = source_.line();
    if (quote + 1 < line.size() && line[quote + 1] == '"') {
      escapes = true;
      unescaped_.append(line, from, quote + 1 - from);
      from = search = quote + 2;
      continue;
    }
    if (escapes) {
      unescaped_.append(line, from, quote - from);
      pieces_.push_back({unescaped_begin, unescaped_.size() - unescaped_begin, true});
    } else {
      pieces_.push_back({from, quote - from, false});
    }
    return quote + 1;
  }
}

}  // namespace itemloom
