#include "core/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <vector>

#include "core/check.h"
#include "core/rank_status.h"

namespace itemloom {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

std::string errno_text(int error) {
  return std::generic_category().message(error);
}

std::string folder_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

constexpr std::string_view kMark = ".tmp-";

std::string aside_path_of(const std::string& path) {
  return join_message(path, kMark, getpid());
}

bool is_folder(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

[[noreturn]] void fail_to_write(const std::string& path, int error) {
  fail("cannot write ", path, ": ", errno_text(error));
}

// A rename is on disk once its folder is. File systems that cannot flush a folder say EINVAL, and there is nothing more
// to do on those.
void flush_folder(const std::string& path) {
  const int descriptor = open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_to_write(path, errno);
  const int error = fsync(descriptor) == 0 ? 0 : errno;
  close(descriptor);
  if (error != 0 && error != EINVAL) fail_to_write(path, error);
}

// A file opened for reading, closed at the end of its life.
class InputFile {
 public:
  explicit InputFile(const std::string& path) : path_(path) {
    descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("cannot read ", path, ": ", errno_text(errno));
    if (is_folder(path)) {
      close(descriptor_);
      fail("cannot read ", path, ": it is a folder, a file was expected");
    }
  }
  ~InputFile() { close(descriptor_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Up to `bytes` bytes; 0 at the end.
  size_t read(char* data, size_t bytes) {
    for (;;) {
      const ssize_t count = ::read(descriptor_, data, bytes);
      if (count >= 0) return static_cast<size_t>(count);
      if (errno != EINTR) fail("cannot read ", path_, ": ", errno_text(errno));
    }
  }

 private:
  std::string path_;
  int descriptor_;
};

// Hands a file's bytes to `use(data, count)` piece by piece.
template <class Use>
void for_each_piece(const std::string& path, const Use& use) {
  InputFile file(path);
  std::vector<char> buffer(kBufferBytes);
  while (const size_t count = file.read(buffer.data(), buffer.size())) use(buffer.data(), count);
}

// The process that writes or has written a temporary of this name; 0 when it is no temporary's name.
pid_t writer_of(const std::string& name) {
  const size_t mark = name.rfind(kMark);
  if (mark == std::string::npos) return 0;
  const char *begin = name.data() + mark + kMark.size(), *end = name.data() + name.size();
  pid_t process = 0;
  const auto [stop, error] = std::from_chars(begin, end, process);
  return error == std::errc() && stop == end ? process : 0;
}

// Removes the temporaries of `path` whose writers are no more: those were killed.
void remove_leftovers_of(const std::string& path) {
  const std::string start = std::filesystem::path(path).filename().string() + std::string(kMark);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_of(path), error)) {
    const std::string name = entry.path().filename().string();
    const pid_t writer = name.rfind(start, 0) == 0 ? writer_of(name) : 0;
    const bool ended = writer > 0 && (writer == getpid() || (kill(writer, 0) != 0 && errno == ESRCH));
    if (ended) unlink(entry.path().c_str());
  }
}

}  // namespace

AsideFile::AsideFile(const std::string& path) : path_(path), aside_path_(aside_path_of(path)) {
  CHECK(!path.empty(), "a file to write has an empty name");
  CHECK(!is_folder(path), "cannot write ", path, ": it is a folder, a file name was expected");
  const std::string folder = folder_of(path);
  std::error_code error;
  const bool missing = !std::filesystem::exists(folder, error) && !error;
  CHECK(!missing, "cannot write ", path, ": the folder ", folder, " does not exist");
  remove_leftovers_of(path);
  // O_EXCL follows no link.
  descriptor_ = open(aside_path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_to_write(path, errno);
}

AsideFile::~AsideFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(aside_path_.c_str());
}

void AsideFile::write(std::string_view bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    write_through(bytes);
  } else {
    buffer_.append(bytes);
  }
}

void AsideFile::flush() {
  write_through(buffer_);
  buffer_.clear();
}

void AsideFile::write_through(std::string_view bytes) {
  CHECK(descriptor_ >= 0, "cannot write ", path_, ": it has been committed");
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      fail_to_write(path_, errno);
    }
    heartbeat();
    bytes.remove_prefix(static_cast<size_t>(count));
  }
}

void AsideFile::flush_to_disk() {
  flush();
  CHECK(descriptor_ >= 0, "cannot write ", path_, ": it has been committed");
  if (fsync(descriptor_) != 0) fail_to_write(path_, errno);
}

void AsideFile::commit() {
  flush_to_disk();
  if (rename(aside_path_.c_str(), path_.c_str()) != 0) fail_to_write(path_, errno);
  const int error = close(descriptor_) == 0 ? 0 : errno;
  descriptor_ = -1;
  if (error != 0 && error != EINTR) fail_to_write(path_, error);
  flush_folder(path_);
}

void write_whole_file(const std::string& path, std::string_view bytes) {
  AsideFile file(path);
  file.write(bytes);
  file.commit();
}

void link_or_copy_file(const std::string& from, const std::string& to) {
  const std::string aside = aside_path_of(to);
  unlink(aside.c_str());
  if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, aside.c_str(), AT_SYMLINK_FOLLOW) != 0) {
    AsideFile copy(to);
    for_each_piece(from, [&](const char* data, size_t count) { copy.write(std::string_view(data, count)); });
    copy.commit();
    return;
  }
  const int error = rename(aside.c_str(), to.c_str()) == 0 ? 0 : errno;
  // When both were names of one file already, rename has left both.
  unlink(aside.c_str());
  if (error != 0) fail_to_write(to, error);
  flush_folder(to);
}

void remove_file(const std::string& path) {
  std::error_code error;
  std::filesystem::remove(path, error);
  CHECK(!error, "cannot remove ", path, ": ", error.message());
}

std::string read_whole_file(const std::string& path) {
  std::string bytes;
  for_each_piece(path, [&](const char* data, size_t count) { bytes.append(data, count); });
  return bytes;
}

void check_readable_file(const std::string& path) {
  InputFile file(path);
}

void finish_standard_output() {
  CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "cannot write to standard output: ", errno_text(errno));
}

void check_folder_can_be_made(const std::string& path) {
  CHECK(!path.empty(), "a folder to make has an empty name");
  std::error_code ignored;
  std::filesystem::path nearest = std::filesystem::absolute(path, ignored);
  while (!std::filesystem::exists(nearest, ignored) && nearest.has_relative_path()) nearest = nearest.parent_path();
  CHECK(is_folder(nearest.string()), "cannot create the folder ", path, ": ", nearest.string(), " is a file");
  CHECK(access(nearest.c_str(), W_OK | X_OK) == 0, "cannot write to the folder ", path, ": ", nearest.string(), ": ",
        errno_text(errno));
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  CHECK(!error, "cannot create the folder ", path, ": ", error.message());
  CHECK(is_folder(path), "cannot create the folder ", path, ": a file has that name");
}

NewFolder::NewFolder(const std::string& path) {
  std::error_code ignored;
  std::filesystem::path folder = std::filesystem::absolute(path, ignored).lexically_normal();
  for (; !std::filesystem::exists(folder, ignored) && folder.has_relative_path(); folder = folder.parent_path()) {
    made_.push_back(folder.string());
  }
  try {
    make_folder(path);
  } catch (...) {
    remove_empty();
    throw;
  }
}

NewFolder::~NewFolder() {
  remove_empty();
}

void NewFolder::remove_empty() {
  std::error_code ignored;
  for (const std::string& folder : made_) std::filesystem::remove(folder, ignored);
}

void remove_leftovers(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const bool temporary = writer_of(entry.path().filename().string()) > 0;
    if (temporary && entry.is_regular_file(error)) std::filesystem::remove(entry.path(), error);
  }
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  const bool ready =
      context_ != nullptr && EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) == 1;
  if (!ready) {
    EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_));
    fail("the cryptography library has no SHA-256");
  }
}

Sha256::~Sha256() {
  EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_));
}

void Sha256::update(const void* data, int64_t bytes) {
  heartbeat();
  CHECK(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), data, static_cast<size_t>(bytes)) == 1,
        "SHA-256 failed in the cryptography library");
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest, &size) == 1,
        "SHA-256 failed in the cryptography library");
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (unsigned int index = 0; index < size; ++index) {
    text += kDigits[digest[index] >> 4];
    text += kDigits[digest[index] & 15];
  }
  return text;
}

std::string sha256(std::string_view bytes) {
  Sha256 sum;
  sum.update(bytes);
  return sum.hex();
}

std::string sha256_of_file(const std::string& path) {
  Sha256 sum;
  for_each_piece(path, [&](const char* data, size_t count) { sum.update(data, static_cast<int64_t>(count)); });
  return sum.hex();
}

}  // namespace itemloom
