#include <archive.h>
#include <archive_entry.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/text_source.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom::test {
namespace {

using Catch::Matchers::Contains;

std::vector<std::string> lines_of(const std::string& path) {
  TextSource source(path);
  std::vector<std::string> lines;
  while (source.next_line()) lines.emplace_back(source.line());
  return lines;
}

std::vector<std::string> lines_of_text(const std::string& text) {
  const TemporaryFolder folder;
  write_text(folder.path("t.txt"), text);
  return lines_of(folder.path("t.txt"));
}

std::string compressed(const std::string& text, int (*add_filter)(archive*)) {
  archive* out = archive_write_new();
  archive_write_set_format_raw(out);
  add_filter(out);
  std::vector<char> buffer(text.size() + (1 << 16));
  size_t used = 0;
  archive_write_open_memory(out, buffer.data(), buffer.size(), &used);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_write_header(out, entry);
  archive_write_data(out, text.data(), text.size());
  archive_entry_free(entry);
  archive_write_close(out);
  archive_write_free(out);
  return std::string(buffer.data(), used);
}

struct Method {
  const char* name;
  int (*add_filter)(archive*);
};
const Method kMethods[] = {{"gz", archive_write_add_filter_gzip},
                           {"xz", archive_write_add_filter_xz},
                           {"zst", archive_write_add_filter_zstd},
                           {"bz2", archive_write_add_filter_bzip2}};

// Some hundred kilobytes that do not compress to nothing.
std::string long_text() {
  std::string text;
  uint64_t state = 1;
  for (int line = 0; line < 40'000; ++line) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    text += std::to_string(line) + "," + std::to_string(state >> 40) + "\n";
  }
  return text;
}

}  // namespace

TEST_CASE("lines end with \\n, \\r\\n or the file", "[data]") {
  using Lines = std::vector<std::string>;
  REQUIRE(lines_of_text("a\nb\r\n\nc") == Lines{"a", "b", "", "c"});
  REQUIRE(lines_of_text("a\n") == Lines{"a"});
  REQUIRE(lines_of_text("a\r") == Lines{"a"});
  REQUIRE(lines_of_text("\r\n") == Lines{""});
  REQUIRE(lines_of_text("a\rb\r\r\n") == Lines{"a\rb\r"});
  REQUIRE(lines_of_text("\xEF\xBB\xBF"
                        "a\nb") == Lines{"a", "b"});
  REQUIRE(lines_of_text("\xEF\xBB\xBF").empty());
}

TEST_CASE("lines cross the borders of blocks", "[data]") {
  const std::string text = long_text() + std::string(3'000'000, 'x') + "\nend";
  const auto lines = lines_of_text(text);
  REQUIRE(lines.size() == 40'002);
  std::string joined;
  for (const std::string& line : lines) joined += line + "\n";
  REQUIRE(joined == text + "\n");
}

TEST_CASE("records that span lines can be joined and given up", "[data]") {
  const TemporaryFolder folder;
  write_text(folder.path("t"), "a\nb\r\nc\nd\n");
  TextSource source(folder.path("t"));
  REQUIRE(source.next_line());
  REQUIRE(source.extend_line());
  REQUIRE(source.line() == "a\nb");
  REQUIRE(source.extend_line());
  REQUIRE(source.line() == "a\nb\r\nc");
  REQUIRE(source.line_number() == 1);
  source.forget_extensions();
  REQUIRE(source.line() == "a");
  REQUIRE(source.next_line());
  REQUIRE(source.line() == "b");
  REQUIRE(source.line_number() == 2);
  REQUIRE(source.extend_line());
  REQUIRE(source.next_line());
  REQUIRE(source.line() == "d");
  REQUIRE(source.line_number() == 4);
  REQUIRE_FALSE(source.extend_line());
  REQUIRE(source.line() == "d");
  REQUIRE_FALSE(source.next_line());
}

TEST_CASE("compressed files are told by their content", "[data]") {
  const std::string text = long_text();
  for (const Method& method : kMethods) {
    INFO(method.name);
    const TemporaryFolder folder;
    const std::string path = folder.path("data.csv"), bytes = compressed(text, method.add_filter);
    write_text(path, bytes);
    std::string joined;
    for (const std::string& line : lines_of(path)) joined += line + "\n";
    REQUIRE(joined == text);
    // Two of them after each other are what they unpack to, as for the tools that made them.
    write_text(path, bytes + bytes);
    REQUIRE(lines_of(path).size() == 80'000);
    // Nothing at all, compressed.
    write_text(path, compressed("", method.add_filter));
    REQUIRE_THROWS_WITH(lines_of(path), path + " holds nothing");
  }
}

TEST_CASE("truncated and damaged archives are refused in one line", "[data]") {
  const std::string text = long_text();
  for (const Method& method : kMethods) {
    const std::string bytes = compressed(text, method.add_filter);
    const TemporaryFolder folder;
    const std::string path = folder.path("data");
    for (const size_t kept : {bytes.size() / 2, bytes.size() - 6, bytes.size() - 1}) {
      INFO(method.name << " cut to " << kept << " of " << bytes.size());
      write_text(path, bytes.substr(0, kept));
      REQUIRE_THROWS_WITH(lines_of(path),
                          Contains(path + ": the compressed data is truncated or corrupt") && !Contains("\n"));
    }
  }
  // zstd's frames here carry no checksum, so a flip may go through it; the others always notice.
  for (const Method& method : {kMethods[0], kMethods[1], kMethods[3]}) {
    std::string bytes = compressed(text, method.add_filter);
    bytes[bytes.size() / 2] ^= 0x10;
    INFO(method.name);
    const TemporaryFolder folder;
    write_text(folder.path("data"), bytes);
    REQUIRE_THROWS_WITH(lines_of(folder.path("data")), Contains(folder.path("data")) && Contains("corrupt"));
  }
}

TEST_CASE("what is no text file is refused in one line", "[data]") {
  const TemporaryFolder folder;
  const std::string path = folder.path("data");
  REQUIRE_THROWS_WITH(lines_of(path), path + ": no such file");
  REQUIRE_THROWS_WITH(lines_of(folder.path()), folder.path() + " is a directory, not a file");
  REQUIRE_THROWS_WITH(lines_of("/dev/null"), "/dev/null is not a regular file");
  write_text(path, "");
  REQUIRE_THROWS_WITH(lines_of(path), path + " is empty");
  write_text(path, std::string("PK\3\4 ab\0cd", 11));
  REQUIRE_THROWS_WITH(lines_of(path), path + " is no text file, nor .gz, .xz, .zst or .bz2 of one: byte 8 is NUL");
  write_text(path, std::string("\xFF\xFE"
                               "a\0b\0",
                               6));
  REQUIRE_THROWS_WITH(lines_of(path), Contains(path + " is UTF-16 text; convert it to UTF-8"));
  write_text(path, compressed(std::string("a\0b", 3), archive_write_add_filter_gzip));
  REQUIRE_THROWS_WITH(lines_of(path),
                      path + " holds no text, or its compressed data is corrupt: byte 2 of its content is NUL");
}

TEST_CASE("a line without end is refused", "[data]") {
  const TemporaryFolder folder;
  write_text(folder.path("data"), "short\n" + std::string((size_t{64} << 20) + (1 << 20), 'x'));
  REQUIRE_THROWS_WITH(lines_of(folder.path("data")), Contains("data:2: the line has more than 64 MiB"));
}

}  // namespace itemloom::test
