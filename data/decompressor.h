// A file's bytes, unpacked on the way.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace itemloom {

class Decompressor {
 public:
  virtual ~Decompressor() = default;
  // Up to `size` bytes, 0 at the end. Throws Error with one line that names the file when it cannot be read, or when
  // what compresses it is truncated or corrupt.
  virtual size_t read(char* to, size_t size) = 0;
  // Whether something compresses the file.
  virtual bool compressed() const = 0;
};

// Tells from the file's first bytes whether it is .gz, .xz, .zst or .bz2; anything else is handed out as it is. Throws
// Error when the file is missing, a directory, no regular file or empty.
std::unique_ptr<Decompressor> open_file(const std::string& path);

}  // namespace itemloom
