// Seals of core/hdf5.h: "itemloom sha256 " and 64 digits, then zero bytes, in front of the HDF5 part of a file.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "core/check.h"
#include "core/hdf5.h"
#include "core/hdf5_handle.h"

namespace itemloom {
namespace {

constexpr std::string_view kSealMark = "itemloom sha256 ";
constexpr std::streamsize kPieceBytes = std::streamsize{1} << 20;

struct Digest {
  std::string first_bytes;  // those of the seal's place, fewer when the file is shorter
  std::string rest_sha256;
};

Digest digest_of(const std::string& path) {
  check_readable_file(path);
  std::ifstream file(path, std::ios::binary);
  std::vector<char> buffer(kPieceBytes);
  file.read(buffer.data(), kSealBytes);
  Digest digest;
  digest.first_bytes.assign(buffer.data(), static_cast<size_t>(file.gcount()));
  Sha256 sum;
  while (file.read(buffer.data(), kPieceBytes), file.gcount() > 0) sum.update(buffer.data(), file.gcount());
  CHECK(file.eof(), "cannot read ", path);
  digest.rest_sha256 = sum.hex();
  return digest;
}

std::string seal_for(const std::string& rest_sha256) {
  std::string seal = std::string(kSealMark) + rest_sha256 + "\n";
  seal.resize(kSealBytes, '\0');
  return seal;
}

bool starts_with_mark(const std::string& path) {
  check_readable_file(path);
  std::ifstream file(path, std::ios::binary);
  std::string mark(kSealMark.size(), '\0');
  file.read(mark.data(), static_cast<std::streamsize>(mark.size()));
  return mark == kSealMark;
}

}  // namespace

void write_seal(const AsideFile& file) {
  const std::string seal = seal_for(digest_of(file.aside_path()).rest_sha256);
  const int descriptor = open(file.aside_path().c_str(), O_WRONLY | O_CLOEXEC);
  const bool written = descriptor >= 0 && pwrite(descriptor, seal.data(), seal.size(), 0) == kSealBytes;
  const int error = errno;
  if (descriptor >= 0) close(descriptor);
  CHECK(written, "cannot write ", file.path(), ": ", std::generic_category().message(error));
}

Seal examine_seal(const std::string& path) {
  if (!starts_with_mark(path)) return Seal::kNone;
  const Digest digest = digest_of(path);
  return digest.first_bytes == seal_for(digest.rest_sha256) ? Seal::kIntact : Seal::kBroken;
}

}  // namespace itemloom
