// Lines of a text file that may be compressed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/decompressor.h"

namespace itemloom {

// Reads a file line by line in blocks; what compresses it (.gz, .xz, .zst, .bz2, or nothing) is told from its content,
// not its name. No copy of the file is held, and a line is a view into the current block.
//
// Throws Error with one line that names the file when it is missing, a directory, empty, truncated, corrupt, or no
// text (a NUL byte; UTF-16), and when a line is longer than 64 MiB. A UTF-8 byte order mark is skipped.
class TextSource {
 public:
  explicit TextSource(const std::string& path);

  // Moves to the next line; false after the last one.
  bool next_line();
  // The line without its end (\n or \r\n), valid until the next call of next_line() or extend_line().
  std::string_view line() const { return {buffer_.data() + begin_, line_end_ - begin_}; }
  // The number of line() in the file, from 1; of its first part if it was extended.
  int64_t line_number() const { return line_number_; }

  // For records that span lines: line() becomes longer by the line end and the following line. False, and nothing
  // changed, at the end of the file or when line() has 1 MiB.
  bool extend_line();
  // Undoes every extend_line() since next_line(), which will go on after the first part.
  void forget_extensions();

  const std::string& path() const { return path_; }

 private:
  // Finds the end of the line that starts at `from` and sets line_end_ and next_; false at the end of the file.
  bool find_line_end(size_t from);
  // Reads on behind the bytes held; false at the end of the file. Moves the bytes from begin_ on to the front.
  bool read_more();
  [[noreturn]] void refuse_binary(int64_t position) const;

  std::string path_;
  std::unique_ptr<Decompressor> decompressor_;
  std::vector<char> buffer_;
  size_t begin_ = 0;                       // where line() starts
  size_t line_end_ = 0;                    // where line() ends
  size_t next_ = 0;                        // where the line after line() starts
  size_t filled_ = 0;                      // the end of the bytes read so far
  size_t first_end_ = 0, first_next_ = 0;  // line_end_ and next_ before extensions, counted from begin_
  int64_t line_number_ = 0, extensions_ = 0;
  int64_t read_ = 0;  // decompressed bytes so far
};

}  // namespace itemloom
