// The reading side of core/hdf5.h.
#include <algorithm>
#include <filesystem>

#include "core/hdf5.h"
#include "core/hdf5_handle.h"

namespace itemloom {
namespace {

// Whether a path leads to a group or dataset. The library errs when the middle of a path is missing, so each part is
// asked for.
bool leads_somewhere(hid_t file, const std::string& object) {
  if (object.empty()) return false;
  for (size_t end = object.find('/', 1);; end = object.find('/', end + 1)) {
    const std::string part = object.substr(0, end);
    const bool there = part == "/" || (H5Lexists(file, part.c_str(), H5P_DEFAULT) > 0 &&
                                       H5Oexists_by_name(file, part.c_str(), H5P_DEFAULT) > 0);
    if (!there || end == std::string::npos) return there;
  }
}

hid_t open_object(hid_t file, const std::string& path, const std::string& object) {
  CHECK(leads_somewhere(file, object), path, " has no ", object);
  const hid_t opened = H5Oopen(file, object.c_str(), H5P_DEFAULT);
  CHECK(opened >= 0, "cannot read ", object, " of ", path, ": ", hdf5_reason());
  return opened;
}

hid_t open_dataset(hid_t file, const std::string& path, const std::string& dataset) {
  CHECK(leads_somewhere(file, dataset), path, " has no dataset ", dataset);
  const hid_t opened = H5Dopen2(file, dataset.c_str(), H5P_DEFAULT);
  CHECK(opened >= 0, "cannot read ", dataset, " of ", path, ": it is no dataset");
  return opened;
}

struct Dataset {
  Dataset(hid_t file, const std::string& path, const std::string& name)
      : id(open_dataset(file, path, name), H5Dclose),
        stored(H5Dget_type(id), H5Tclose),
        space(H5Dget_space(id), H5Sclose),
        type(stored_type(stored)),
        shape(shape_of(space)) {}

  Hdf5Handle id, stored, space;
  ElementType type;
  Shape shape;
};

// Takes the texts out of what the library has allocated, and gives that back.
std::vector<std::string> take_texts(std::vector<char*>& pointers, hid_t type, hid_t space) {
  std::vector<std::string> texts;
  texts.reserve(pointers.size());
  for (const char* pointer : pointers) texts.emplace_back(pointer == nullptr ? "" : pointer);
  H5Dvlen_reclaim(type, space, H5P_DEFAULT, pointers.data());
  return texts;
}

template <class T>
AttributeValue single_or_list(std::vector<T> values, bool single) {
  if (single) return std::move(values[0]);
  return values;
}

AttributeValue read_attribute(hid_t attribute, const std::string& path, const std::string& name) {
  const Hdf5Handle stored(H5Aget_type(attribute), H5Tclose), space(H5Aget_space(attribute), H5Sclose);
  const Shape shape = shape_of(space);
  const size_t count = static_cast<size_t>(element_count(shape));
  const H5T_class_t kind = H5Tget_class(stored);
  const auto read_into = [&](hid_t type, void* values) {
    CHECK(count == 0 || H5Aread(attribute, type, values) >= 0, "cannot read attribute ", name, " of ", path, ": ",
          hdf5_reason());
  };
  if (kind == H5T_INTEGER) {
    std::vector<int64_t> values(count);
    read_into(H5T_NATIVE_INT64, values.data());
    return single_or_list(std::move(values), shape.empty());
  }
  if (kind == H5T_FLOAT) {
    std::vector<double> values(count);
    read_into(H5T_NATIVE_DOUBLE, values.data());
    return single_or_list(std::move(values), shape.empty());
  }
  CHECK(kind == H5T_STRING && H5Tis_variable_str(stored) > 0, "cannot read attribute ", name, " of ", path,
        ": it holds neither numbers nor variable-length text");
  std::vector<char*> pointers(count, nullptr);
  read_into(stored, pointers.data());
  return single_or_list(take_texts(pointers, stored, space), shape.empty());
}

// What the library says of a file it cannot open, in a user's words.
[[noreturn]] void fail_to_open(const std::string& path, const std::string& reason) {
  std::error_code error;
  CHECK(std::filesystem::file_size(path, error) != 0 || error, path, " is empty, an HDF5 file was expected");
  CHECK(reason.find("truncated file") == std::string::npos, path, " is damaged: it has been cut short");
  CHECK(reason.find("signature") == std::string::npos, path, " is not an HDF5 file");
  fail("cannot read ", path, ": ", reason);
}

}  // namespace

Hdf5Reader::Hdf5Reader(const std::string& path) : Hdf5Reader(path, examine_seal(path)) {}

Hdf5Reader::Hdf5Reader(const std::string& path, Seal seal) : path_(path), sealed_(seal == Seal::kIntact) {
  CHECK(seal != Seal::kBroken, path, " is damaged: its content is not the one its SHA-256 was taken of");
  const Hdf5Lock lock;
  const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_file_locking(access, false, true);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  file_ = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access);
  if (file_ < 0) fail_to_open(path, hdf5_reason());
}

Hdf5Reader::~Hdf5Reader() {
  const Hdf5Lock lock;
  H5Fclose(file_);
}

bool Hdf5Reader::exists(const std::string& object) const {
  const Hdf5Lock lock;
  return leads_somewhere(file_, object);
}

bool Hdf5Reader::is_group(const std::string& object) const {
  const Hdf5Lock lock;
  const Hdf5Handle opened(open_object(file_, path_, object), H5Oclose);
  return H5Iget_type(opened) == H5I_GROUP;
}

std::vector<std::string> Hdf5Reader::children(const std::string& group) const {
  const Hdf5Lock lock;
  const Hdf5Handle opened(open_object(file_, path_, group), H5Oclose);
  H5G_info_t info;
  CHECK(H5Gget_info(opened, &info) >= 0, "cannot list ", group, " of ", path_, ": ", hdf5_reason());
  std::vector<std::string> names;
  for (hsize_t index = 0; index < info.nlinks; ++index) {
    const auto name_at = [&](char* text, size_t size) {
      return H5Lget_name_by_idx(opened, ".", H5_INDEX_NAME, H5_ITER_INC, index, text, size, H5P_DEFAULT);
    };
    const ssize_t size = name_at(nullptr, 0);
    CHECK(size >= 0, "cannot list ", group, " of ", path_, ": ", hdf5_reason());
    std::string name(static_cast<size_t>(size), '\0');
    name_at(name.data(), name.size() + 1);
    names.push_back(std::move(name));
  }
  return names;
}

DatasetInfo Hdf5Reader::info(const std::string& dataset) const {
  const Hdf5Lock lock;
  const Dataset opened(file_, path_, dataset);
  const Hdf5Handle properties(H5Dget_create_plist(opened.id), H5Pclose);
  DatasetInfo info{.type = opened.type, .shape = opened.shape, .offset = -1};
  const bool numbers = info.type != ElementType::kText && info.type != ElementType::kOther;
  if (numbers && element_count(info.shape) > 0 && H5Pget_layout(properties) == H5D_CONTIGUOUS) {
    const haddr_t offset = H5Dget_offset(opened.id);
    if (offset != HADDR_UNDEF) info.offset = static_cast<int64_t>(offset);
  }
  return info;
}

void Hdf5Reader::read_numbers(const std::string& dataset, const Shape& shape, ElementType type, void* data) const {
  const Hdf5Lock lock;
  const Dataset opened(file_, path_, dataset);
  CHECK(opened.type == type, "cannot read ", dataset, " of ", path_, ": it holds ", name_of(opened.type), ", ",
        name_of(type), " was expected");
  CHECK(opened.shape == shape, "cannot read ", dataset, " of ", path_, ": its shape is ", text_of(opened.shape), ", ",
        text_of(shape), " was expected");
  if (element_count(shape) == 0) return;
  CHECK(H5Dread(opened.id, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, "cannot read ", dataset,
        " of ", path_, ": ", hdf5_reason());
}

void Hdf5Reader::read_number_rows(const std::string& dataset, int64_t first, int64_t count, ElementType type,
                                  void* data) const {
  const Hdf5Lock lock;
  Dataset opened(file_, path_, dataset);
  CHECK(opened.type == type, "cannot read ", dataset, " of ", path_, ": it holds ", name_of(opened.type), ", ",
        name_of(type), " was expected");
  Shape shape = opened.shape;
  CHECK(!shape.empty() && first >= 0 && count >= 0 && first <= shape[0] - count, "cannot read rows ", first, " to ",
        first + count, " of ", dataset, " of ", path_, ": its shape is ", text_of(shape));
  if (count == 0 || element_count(shape) == 0) return;
  bool done = select_rows(opened.space, shape, first, count);
  shape[0] = count;
  const Hdf5Handle memory(create_space(shape), H5Sclose);
  done = done && memory >= 0 && H5Dread(opened.id, memory_type(type), memory, opened.space, H5P_DEFAULT, data) >= 0;
  CHECK(done, "cannot read ", dataset, " of ", path_, ": ", hdf5_reason());
}

std::vector<std::string> Hdf5Reader::read_texts(const std::string& dataset) const {
  const Shape shape = info(dataset).shape;
  return read_texts(dataset, 0, shape.empty() ? 1 : shape[0]);
}

std::vector<std::string> Hdf5Reader::read_texts(const std::string& dataset, int64_t first, int64_t count) const {
  const Hdf5Lock lock;
  Dataset opened(file_, path_, dataset);
  CHECK(opened.type == ElementType::kText && opened.shape.size() == 1, "cannot read ", dataset, " of ", path_,
        ": it holds ", name_of(opened.type), " of shape ", text_of(opened.shape), ", a list of texts was expected");
  CHECK(first >= 0 && count >= 0 && first <= opened.shape[0] - count, "cannot read texts ", first, " to ",
        first + count, " of ", dataset, " of ", path_, ": it has ", opened.shape[0]);
  if (count == 0) return {};
  const Hdf5Handle memory(create_space({count}), H5Sclose);
  std::vector<char*> pointers(static_cast<size_t>(count), nullptr);
  const bool done = select_rows(opened.space, opened.shape, first, count) &&
                    H5Dread(opened.id, opened.stored, memory, opened.space, H5P_DEFAULT, pointers.data()) >= 0;
  CHECK(done, "cannot read ", dataset, " of ", path_, ": ", hdf5_reason());
  return take_texts(pointers, opened.stored, memory);
}

bool Hdf5Reader::has_attribute(const std::string& object, const std::string& name) const {
  const Hdf5Lock lock;
  const Hdf5Handle opened(open_object(file_, path_, object), H5Oclose);
  return H5Aexists(opened, name.c_str()) > 0;
}

AttributeValue Hdf5Reader::attribute_value(const std::string& object, const std::string& name) const {
  const Hdf5Lock lock;
  const Hdf5Handle opened(open_object(file_, path_, object), H5Oclose);
  CHECK(H5Aexists(opened, name.c_str()) > 0, path_, " has no attribute ", name, " at ", object);
  const Hdf5Handle attribute(H5Aopen(opened, name.c_str(), H5P_DEFAULT), H5Aclose);
  CHECK(attribute >= 0, "cannot read attribute ", name, " of ", path_, ": ", hdf5_reason());
  return read_attribute(attribute, path_, name);
}

std::map<std::string, AttributeValue> Hdf5Reader::attributes(const std::string& object) const {
  const Hdf5Lock lock;
  const Hdf5Handle opened(open_object(file_, path_, object), H5Oclose);
  H5O_info_t info;
  CHECK(H5Oget_info2(opened, &info, H5O_INFO_NUM_ATTRS) >= 0, "cannot read ", object, " of ", path_, ": ",
        hdf5_reason());
  std::map<std::string, AttributeValue> values;
  for (hsize_t index = 0; index < info.num_attrs; ++index) {
    const Hdf5Handle attribute(H5Aopen_by_idx(opened, ".", H5_INDEX_NAME, H5_ITER_INC, index, H5P_DEFAULT, H5P_DEFAULT),
                               H5Aclose);
    const ssize_t size = attribute >= 0 ? H5Aget_name(attribute, 0, nullptr) : -1;
    CHECK(size >= 0, "cannot read the attributes of ", object, " of ", path_, ": ", hdf5_reason());
    std::string name(static_cast<size_t>(size), '\0');
    H5Aget_name(attribute, name.size() + 1, name.data());
    values.emplace(name, read_attribute(attribute, path_, name));
  }
  return values;
}

int64_t check_header(const Hdf5Reader& file, const std::string& kind, int64_t latest_version) {
  const auto with_article = [](const std::string& word) {
    return (word.find_first_of("aeiou") == 0 ? "an " : "a ") + word;
  };
  CHECK(file.has_attribute("/", "format") && file.has_attribute("/", "format_version"), file.path(),
        " was not written by itemloom, ", with_article(kind), " was expected");
  const auto format = file.attribute<std::string>("/", "format");
  CHECK(format == "itemloom " + kind, file.path(), " is ", with_article(format), ", ", with_article(kind),
        " was expected");
  const auto version = file.attribute<int64_t>("/", "format_version");
  CHECK(version >= 1 && version <= latest_version, file.path(), " has format version ", version,
        ", this program reads up to ", latest_version, "; use a newer itemloom");
  return version;
}

}  // namespace itemloom
