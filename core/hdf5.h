// HDF5 files: written aside and renamed, read strictly.
//
// The serial HDF5 library is not thread-safe: every member function here holds one lock of the process, so files may be
// used from several threads (a background writer beside a reader), one call at a time. Every return code is checked;
// errors are thrown as Error with one line that names the file and the dataset or attribute.
//
// Datasets are named by paths ("/item/embedding"); the groups on the way are created. Numbers are stored little-endian
// in the type they have in memory and are read back in that type only. Texts are variable-length UTF-8, which h5py
// reads as str; they cannot hold a zero byte.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "core/files.h"
#include "core/view.h"

namespace itemloom {

enum class ElementType { kFloat32, kFloat64, kInt32, kInt64, kUint8, kUint64, kText, kOther };

// "float32", ..., "text", "other": for messages and listings.
const char* name_of(ElementType type);

template <class T>
constexpr ElementType element_type() {
  if constexpr (std::is_same_v<T, float>) return ElementType::kFloat32;
  if constexpr (std::is_same_v<T, double>) return ElementType::kFloat64;
  if constexpr (std::is_same_v<T, int32_t>) return ElementType::kInt32;
  if constexpr (std::is_same_v<T, int64_t>) return ElementType::kInt64;
  if constexpr (std::is_same_v<T, uint8_t>) return ElementType::kUint8;
  if constexpr (std::is_same_v<T, uint64_t>) return ElementType::kUint64;
  return ElementType::kOther;
}

template <class T>
concept Number = element_type<T>()
!= ElementType::kOther;

// 0 to 4 extents; none is a single value.
using Shape = std::vector<int64_t>;

// "(27630, 64)", for messages.
std::string text_of(const Shape& shape);

// kContiguous can be memory-mapped (DatasetInfo::offset). kChecked is stored in chunks of about 1 MB with a Fletcher-32
// checksum each: a damaged byte makes reading fail.
enum class Layout { kContiguous, kChecked };

using AttributeValue =
    std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>, std::vector<std::string>>;

struct DatasetInfo {
  ElementType type;
  Shape shape;
  // Where a contiguous dataset of numbers starts in the file, in bytes (a multiple of 64); -1 when it is chunked, empty
  // or texts.
  int64_t offset;
};

class Hdf5Writer {
 public:
  // The file appears at `path` when commit() has returned; see AsideFile. A sealed file has its SHA-256 in its first
  // 512 bytes, which HDF5 leaves to the user, so that damage anywhere is noticed before the HDF5 library, which can
  // crash on damaged files, sees it.
  explicit Hdf5Writer(const std::string& path, bool sealed = false);
  ~Hdf5Writer();

  template <Number T>
  void write(const std::string& dataset, const Shape& shape, const T* data, Layout layout = Layout::kContiguous) {
    write_numbers(dataset, shape, element_type<T>(), data, layout);
  }
  template <Number T>
  void write(const std::string& dataset, const std::vector<T>& values, Layout layout = Layout::kContiguous) {
    write(dataset, {static_cast<int64_t>(values.size())}, values.data(), layout);
  }
  template <class T, int Rank>
  void write(const std::string& dataset, View<T, Rank> view, Layout layout = Layout::kContiguous) {
    const Shape shape(view.extents().begin(), view.extents().end());
    write(dataset, shape, static_cast<const T*>(view.data()), layout);
  }
  void write(const std::string& dataset, const std::vector<std::string>& texts);

  // A dataset that write_rows fills piece by piece; rows never written are zero.
  template <Number T>
  void create(const std::string& dataset, const Shape& shape, Layout layout = Layout::kContiguous) {
    create_numbers(dataset, shape, element_type<T>(), layout);
  }
  // Entries [first, first + count) of the first axis.
  template <Number T>
  void write_rows(const std::string& dataset, int64_t first, int64_t count, const T* data) {
    write_number_rows(dataset, first, count, element_type<T>(), data);
  }

  void create_group(const std::string& group);
  // `object` is a group or a dataset that exists; "/" is the file itself.
  void write_attribute(const std::string& object, const std::string& name, const AttributeValue& value);

  void commit();

 private:
  void write_numbers(const std::string& dataset, const Shape& shape, ElementType type, const void* data, Layout layout);
  void create_numbers(const std::string& dataset, const Shape& shape, ElementType type, Layout layout);
  void write_number_rows(const std::string& dataset, int64_t first, int64_t count, ElementType type, const void* data);

  AsideFile aside_;
  bool sealed_;
  int64_t file_;  // an hid_t
};

enum class Seal { kNone, kIntact, kBroken };

// Reads the whole file when it is sealed. Throws when it cannot be read.
Seal examine_seal(const std::string& path);

class Hdf5Reader {
 public:
  // Throws when `path` is missing, a folder, empty, not HDF5, or cut short, and when its seal is broken.
  explicit Hdf5Reader(const std::string& path);
  // For who has just examined the seal.
  Hdf5Reader(const std::string& path, Seal seal);
  ~Hdf5Reader();
  Hdf5Reader(const Hdf5Reader&) = delete;
  Hdf5Reader& operator=(const Hdf5Reader&) = delete;

  const std::string& path() const { return path_; }
  // Whether the file has a seal.
  bool sealed() const { return sealed_; }

  // Whether a group or dataset of this name exists.
  bool exists(const std::string& object) const;
  bool is_group(const std::string& object) const;
  // Names directly below a group, sorted.
  std::vector<std::string> children(const std::string& group) const;
  DatasetInfo info(const std::string& dataset) const;

  // All numbers of a dataset, row-major. Throws when it is missing or of another type.
  template <Number T>
  std::vector<T> read(const std::string& dataset) const {
    int64_t count = 1;
    const Shape shape = info(dataset).shape;
    for (int64_t extent : shape) count *= extent;
    std::vector<T> values(static_cast<size_t>(count));
    read_numbers(dataset, shape, element_type<T>(), values.data());
    return values;
  }
  // Into memory of exactly this shape; throws when the dataset's is another.
  template <Number T>
  void read(const std::string& dataset, const Shape& shape, T* data) const {
    read_numbers(dataset, shape, element_type<T>(), data);
  }
  template <class T, int Rank>
  void read(const std::string& dataset, View<T, Rank> view) const {
    read(dataset, Shape(view.extents().begin(), view.extents().end()), view.data());
  }
  template <Number T>
  void read_rows(const std::string& dataset, int64_t first, int64_t count, T* data) const {
    read_number_rows(dataset, first, count, element_type<T>(), data);
  }
  std::vector<std::string> read_texts(const std::string& dataset) const;
  std::vector<std::string> read_texts(const std::string& dataset, int64_t first, int64_t count) const;

  bool has_attribute(const std::string& object, const std::string& name) const;
  // Throws when it is missing or holds another kind of value; integers and floats of any width are widened.
  template <class T>
  T attribute(const std::string& object, const std::string& name) const {
    AttributeValue value = attribute_value(object, name);
    CHECK(std::holds_alternative<T>(value), path_, ": the attribute ", name, " of ", object,
          " holds another kind of value than this program expects");
    return std::get<T>(std::move(value));
  }
  AttributeValue attribute_value(const std::string& object, const std::string& name) const;
  std::map<std::string, AttributeValue> attributes(const std::string& object) const;

 private:
  void read_numbers(const std::string& dataset, const Shape& shape, ElementType type, void* data) const;
  void read_number_rows(const std::string& dataset, int64_t first, int64_t count, ElementType type, void* data) const;

  std::string path_;
  bool sealed_;
  int64_t file_;  // an hid_t
};

// Every file of ours says what it is in two attributes of "/": format, "itemloom " + kind ("dataset", "checkpoint",
// "export", ...), and format_version.
void write_header(Hdf5Writer& file, const std::string& kind, int64_t version);

// Throws when the file is of another kind ("F is an itemloom checkpoint, a dataset was expected"), not of ours, or of a
// version beyond `latest_version`. Gives the version.
int64_t check_header(const Hdf5Reader& file, const std::string& kind, int64_t latest_version);

}  // namespace itemloom
