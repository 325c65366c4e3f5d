// Files that appear whole or not at all, and their SHA-256.
//
// All functions throw Error with one line that names the path and says what the operating system said.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace itemloom {

// A file written aside: everything goes to PATH.tmp-<pid> in the same folder, and commit() flushes it to disk, renames
// it to PATH and flushes the folder. Until then PATH is what it was before; without commit() the temporary is removed
// by the destructor. Two of them for one path must not live at the same time in one process.
class AsideFile {
 public:
  // Creates the temporary file, and removes those of PATH that killed processes have left. Throws when PATH is a folder
  // or the folder that is to hold it is missing or unwritable.
  explicit AsideFile(const std::string& path);
  ~AsideFile();
  AsideFile(const AsideFile&) = delete;
  AsideFile& operator=(const AsideFile&) = delete;

  const std::string& path() const { return path_; }
  // For a library that opens files by name itself (HDF5): it may write here instead of calling write().
  const std::string& aside_path() const { return aside_path_; }

  // Appends, through a buffer.
  void write(std::string_view bytes);
  void write(const void* data, int64_t bytes) {
    write(std::string_view(static_cast<const char*>(data), static_cast<size_t>(bytes)));
  }
  // What has been written so far is on disk: of several files that belong together none is committed before all are.
  void flush_to_disk();
  void commit();

 private:
  void flush();
  void write_through(std::string_view bytes);

  std::string path_, aside_path_, buffer_;
  int descriptor_ = -1;
};

// Replaces or creates a file in one piece, by AsideFile.
void write_whole_file(const std::string& path, std::string_view bytes);

// Makes `to` another name of the file `from`, replacing what had that name: a hard link, or a copy where the file
// system has none. It is on disk when this returns, and at any moment before `to` leads to what it was, or to all of
// `from`.
void link_or_copy_file(const std::string& from, const std::string& to);

// Removes a file; one that is not there is fine.
void remove_file(const std::string& path);

// Throws for a missing or unreadable file and for a folder.
std::string read_whole_file(const std::string& path);

// Throws, as every reader of files does, when `path` does not exist, is a folder, or cannot be read.
void check_readable_file(const std::string& path);

// Throws when what was printed has not all been taken by standard output (a full disk behind it): nobody else would say
// so, since it is written when the buffer is full or the process ends.
void finish_standard_output();

// Throws when make_folder() could not make `path`, as far as that can be known without trying: something on the way to
// it is a file, or may not be written to.
void check_folder_can_be_made(const std::string& path);

// Creates a folder and its parents; one that exists is fine, a file in its place is not.
void make_folder(const std::string& path);

// A folder, made with its parents where they are missing. Until keep() is called it is on trial: the destructor removes
// those it made, as far as they are empty.
class NewFolder {
 public:
  explicit NewFolder(const std::string& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  void keep() { made_.clear(); }

 private:
  void remove_empty();

  std::vector<std::string> made_;  // innermost first
};

// Removes the temporaries (*.tmp-<pid>) that writers killed in this folder have left. Only for a folder that nobody
// else writes to at the moment.
void remove_leftovers(const std::string& folder);

// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(const void* data, int64_t bytes);
  void update(std::string_view bytes) { update(bytes.data(), static_cast<int64_t>(bytes.size())); }
  // 64 lower-case hexadecimal digits. Ends the object's life: call it once and last.
  std::string hex();

 private:
  void* context_;
};

std::string sha256(std::string_view bytes);
std::string sha256_of_file(const std::string& path);

}  // namespace itemloom
