#include "data/text_source.h"

#include <cstring>

#include "core/check.h"
#include "core/rank_status.h"

namespace itemloom {
namespace {

constexpr size_t kBlock = size_t{256} << 10;
constexpr size_t kLongestLine = size_t{64} << 20;
constexpr size_t kLongestRecord = size_t{1} << 20;

}  // namespace

TextSource::TextSource(const std::string& path) : path_(path), decompressor_(open_file(path)), buffer_(2 * kBlock) {
  while (filled_ < 3 && read_more()) {
  }
  CHECK(filled_ > 0, path_, " holds nothing");
  if (std::string_view(buffer_.data(), filled_).starts_with("\xEF\xBB\xBF")) next_ = 3;
}

bool TextSource::next_line() {
  line_number_ += 1 + extensions_;
  extensions_ = 0;
  begin_ = line_end_ = next_;
  if (!find_line_end(begin_)) return false;
  first_end_ = line_end_ - begin_;
  first_next_ = next_ - begin_;
  return true;
}

bool TextSource::extend_line() {
  const size_t end = line_end_ - begin_, next = next_ - begin_;
  if (next > kLongestRecord || !find_line_end(next_)) {
    line_end_ = begin_ + end;
    next_ = begin_ + next;
    return false;
  }
  ++extensions_;
  return true;
}

void TextSource::forget_extensions() {
  line_end_ = begin_ + first_end_;
  next_ = begin_ + first_next_;
  extensions_ = 0;
}

bool TextSource::find_line_end(size_t from) {
  from -= begin_;  // read_more moves begin_
  size_t searched = from;
  for (;;) {
    const char* start = buffer_.data() + begin_;
    const size_t held = filled_ - begin_;
    if (const auto* found = static_cast<const char*>(std::memchr(start + searched, '\n', held - searched))) {
      const auto at = static_cast<size_t>(found - start);
      line_end_ = begin_ + at - (at > from && start[at - 1] == '\r' ? 1 : 0);
      next_ = begin_ + at + 1;
      return true;
    }
    searched = held;
    CHECK(held - from <= kLongestLine, path_, ":", line_number_,
          ": the line has more than 64 MiB; this is no text file");
    if (!read_more()) {
      line_end_ = next_ = filled_;
      if (held > from && buffer_[filled_ - 1] == '\r') --line_end_;
      return held > from;
    }
  }
}

bool TextSource::read_more() {
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, filled_ - begin_);
    filled_ -= begin_;
    begin_ = 0;
  }
  if (buffer_.size() - filled_ < kBlock) buffer_.resize(2 * buffer_.size());
  const size_t got = decompressor_->read(buffer_.data() + filled_, buffer_.size() - filled_);
  if (const void* zero = std::memchr(buffer_.data() + filled_, 0, got)) {
    refuse_binary(read_ + (static_cast<const char*>(zero) - buffer_.data()) - static_cast<int64_t>(filled_));
  }
  filled_ += got;
  heartbeat();
  read_ += static_cast<int64_t>(got);
  return got > 0;
}

void TextSource::refuse_binary(int64_t position) const {
  const std::string_view start(buffer_.data(), 2);
  CHECK(position > 3 || !(start == "\xFF\xFE" || start == "\xFE\xFF"), path_,
        " is UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)");
  CHECK(!decompressor_->compressed(), path_, " holds no text, or its compressed data is corrupt: byte ", position + 1,
        " of its content is NUL");
  fail(path_, " is no text file, nor .gz, .xz, .zst or .bz2 of one: byte ", position + 1, " is NUL");
}

}  // namespace itemloom
