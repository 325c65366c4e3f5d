// What the two sides of core/hdf5.h share: the lock, owned identifiers, and the library's own words for an error.
// Included by core/hdf5*.cpp only. All but Hdf5Lock is to be used while an Hdf5Lock lives.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>

#include "core/hdf5.h"

namespace itemloom {

// Holds the process's HDF5 lock. The first one keeps the library from tidying up at exit, where it would only try again
// to write what could not be written before; the first one of each thread silences the library's own error printing,
// which some builds of it have for each thread.
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::lock_guard<std::mutex> lock_;
};

// An HDF5 identifier and the function that closes it.
class Hdf5Handle {
 public:
  Hdf5Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;

  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// Why the last call failed: the operating system's words where there are any ("No space left on device"), else the
// library's innermost description.
std::string hdf5_reason();

// In memory, and in files (little-endian).
hid_t memory_type(ElementType type);
hid_t file_type(ElementType type);
// A new identifier of variable-length UTF-8.
hid_t create_text_type();

// What a stored type is for us; kOther when it is none of ours.
ElementType stored_type(hid_t type);

// A new identifier of a dense extent.
hid_t create_space(const Shape& shape);
// Selects entries [first, first + count) of the first axis of a space of this shape.
bool select_rows(hid_t space, const Shape& shape, int64_t first, int64_t count);
Shape shape_of(hid_t space);
int64_t element_count(const Shape& shape);

// The seal's place at the beginning of a file, the least that HDF5 leaves to the user.
inline constexpr int64_t kSealBytes = 512;
// Writes the SHA-256 of all that follows the seal's place of a complete file into it.
void write_seal(const AsideFile& file);

}  // namespace itemloom
