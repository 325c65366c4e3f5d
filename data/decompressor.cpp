#include "data/decompressor.h"

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/check.h"

namespace itemloom {
namespace {

constexpr size_t kBlock = size_t{256} << 10;

// The first bytes of a file.
std::string first_bytes(const std::string& path) {
  struct Close {
    void operator()(FILE* file) const { std::fclose(file); }
  };
  const std::unique_ptr<FILE, Close> file(std::fopen(path.c_str(), "rb"));
  CHECK(file, path, " cannot be opened: ", std::strerror(errno));
  char bytes[6];
  return std::string(bytes, std::fread(bytes, 1, sizeof(bytes), file.get()));
}

bool is_gzip(const std::string& start) {
  return start.starts_with("\x1F\x8B");
}

bool is_xz_zstd_or_bzip2(const std::string& start) {
  return start == std::string_view(
                      "\xFD"
                      "7zXZ\0",
                      6) ||
         start.starts_with("\x28\xB5\x2F\xFD") || start.starts_with("BZh");
}

[[noreturn]] void fail_corrupt(const std::string& path, const char* why) {
  fail(path, ": the compressed data is truncated or corrupt", why ? join_message(" (", why, ")") : std::string());
}

// gzip goes through zlib itself, which verifies the checksum of every member; libarchive does not.
class Gzip : public Decompressor {
 public:
  explicit Gzip(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
    CHECK(file_, path, " cannot be opened: ", std::strerror(errno));
    gzbuffer(file_.get(), kBlock);
  }
  size_t read(char* to, size_t size) override {
    const int got = gzread(file_.get(), to, static_cast<unsigned>(std::min(size, kBlock)));
    int error = Z_OK;
    gzerror(file_.get(), &error);
    // A file that ends in the middle still hands out what it has, and says so only here.
    if (error == Z_BUF_ERROR) fail_corrupt(path_, "truncated gzip input");
    if (got < 0 || error != Z_OK) fail_corrupt(path_, "gzip data or its checksum is wrong");
    return static_cast<size_t>(got);
  }
  bool compressed() const override { return true; }

 private:
  struct Close {
    void operator()(gzFile_s* file) const { gzclose(file); }
  };
  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

class Archive : public Decompressor {
 public:
  Archive(const std::string& path, bool compressed)
      : path_(path), compressed_(compressed), archive_(archive_read_new()) {
    CHECK(archive_, path, " cannot be opened: out of memory");
    archive_read_support_format_raw(archive_.get());
    archive_read_support_format_empty(archive_.get());
    archive_read_support_filter_xz(archive_.get());
    archive_read_support_filter_zstd(archive_.get());
    archive_read_support_filter_bzip2(archive_.get());
    check(archive_read_open_filename(archive_.get(), path.c_str(), kBlock));
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(archive_.get(), &entry);
    if (result == ARCHIVE_EOF) {
      ended_ = true;
    } else {
      check(result);
    }
  }
  size_t read(char* to, size_t size) override {
    if (ended_) return 0;
    const la_ssize_t got = archive_read_data(archive_.get(), to, size);
    if (got < 0) check(static_cast<int>(got));
    return static_cast<size_t>(got);
  }
  bool compressed() const override { return compressed_; }

 private:
  void check(int result) const {
    if (result == ARCHIVE_OK || result == ARCHIVE_WARN) return;
    const char* why = archive_error_string(archive_.get());
    if (compressed_) fail_corrupt(path_, why);
    fail(path_, " cannot be read: ", why ? why : std::strerror(archive_errno(archive_.get())));
  }

  struct Free {
    void operator()(archive* opened) const { archive_read_free(opened); }
  };
  std::string path_;
  bool compressed_;
  std::unique_ptr<archive, Free> archive_;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<Decompressor> open_file(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  CHECK(std::filesystem::exists(status), path, ": no such file");
  CHECK(!std::filesystem::is_directory(status), path, " is a directory, not a file");
  CHECK(std::filesystem::is_regular_file(status), path, " is not a regular file");
  const auto size = std::filesystem::file_size(path, error);
  CHECK(!error, path, ": ", error.message());
  CHECK(size > 0, path, " is empty");
  const std::string start = first_bytes(path);
  if (is_gzip(start)) return std::make_unique<Gzip>(path);
  return std::make_unique<Archive>(path, is_xz_zstd_or_bzip2(start));
}

}  // namespace itemloom
