// The writing side of core/hdf5.h.
#include "core/hdf5.h"

#include <algorithm>
#include <utility>

#include "core/hdf5_handle.h"

namespace itemloom {
namespace {

constexpr hsize_t kAlignmentBytes = 64;
constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr size_t kChunkCacheBytes = size_t{8} << 20;

int64_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
    case ElementType::kInt32:
      return 4;
    case ElementType::kUint8:
      return 1;
    default:
      return 8;
  }
}

// Whole trailing axes as far as they fit in kChunkBytes, then a part of the next, then single entries.
std::vector<hsize_t> chunk_extents(const Shape& shape, ElementType type) {
  std::vector<hsize_t> chunk(shape.size(), 1);
  int64_t bytes = element_bytes(type);
  for (size_t axis = shape.size(); axis-- > 0;) {
    const int64_t fitting = std::clamp<int64_t>(kChunkBytes / bytes, 1, shape[axis]);
    chunk[axis] = static_cast<hsize_t>(fitting);
    bytes *= fitting;
  }
  return chunk;
}

// A dataset of ours has no time stamps (equal content gives equal bytes), and its groups are created on the way.
hid_t create_dataset(hid_t file, const std::string& name, hid_t type, hid_t space, hid_t properties) {
  const Hdf5Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  if (H5Pset_create_intermediate_group(links, 1) < 0 || H5Pset_obj_track_times(properties, false) < 0) return -1;
  return H5Dcreate2(file, name.c_str(), type, space, links, properties, H5P_DEFAULT);
}

hid_t create_file(const std::string& path, hsize_t user_bytes) {
  const Hdf5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose), access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const bool ready = H5Pset_userblock(creation, user_bytes) >= 0 && H5Pset_alignment(access, 1, kAlignmentBytes) >= 0 &&
                     H5Pset_file_locking(access, false, true) >= 0 &&
                     H5Pset_cache(access, 0, 521, kChunkCacheBytes, 0.75) >= 0 &&
                     H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0;
  return ready ? H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access) : -1;
}

// The address of each text, as the library wants them.
std::vector<const char*> pointers_to(const std::vector<std::string>& texts, const std::string& path,
                                     const std::string& name) {
  std::vector<const char*> pointers;
  pointers.reserve(texts.size());
  for (const std::string& text : texts) {
    CHECK(text.find('\0') == std::string::npos, "cannot write ", path, ": text ", pointers.size(), " of ", name,
          " holds a zero byte");
    pointers.push_back(text.c_str());
  }
  return pointers;
}

// An attribute's value as the library wants it: a type, a space and the address of the numbers or texts.
template <class T>
bool write_attribute_as(hid_t object, const std::string& name, hid_t stored, hid_t memory, hid_t space, const T* data) {
  if (H5Aexists(object, name.c_str()) > 0 && H5Adelete(object, name.c_str()) < 0) return false;
  const Hdf5Handle attribute(H5Acreate2(object, name.c_str(), stored, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  return attribute >= 0 && (H5Sget_simple_extent_npoints(space) == 0 || H5Awrite(attribute, memory, data) >= 0);
}

}  // namespace

Hdf5Writer::Hdf5Writer(const std::string& path, bool sealed) : aside_(path), sealed_(sealed) {
  const Hdf5Lock lock;
  file_ = create_file(aside_.aside_path(), sealed ? kSealBytes : 0);
  CHECK(file_ >= 0, "cannot write ", path, ": ", hdf5_reason());
}

Hdf5Writer::~Hdf5Writer() {
  if (file_ < 0) return;
  const Hdf5Lock lock;
  H5Fclose(file_);
}

void Hdf5Writer::create_numbers(const std::string& dataset, const Shape& shape, ElementType type, Layout layout) {
  const Hdf5Lock lock;
  const Hdf5Handle space(create_space(shape), H5Sclose), properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  bool ready = space >= 0 && properties >= 0;
  // The library knows no chunks of nothing.
  if (ready && layout == Layout::kChecked && !shape.empty() && element_count(shape) > 0) {
    const std::vector<hsize_t> chunk = chunk_extents(shape, type);
    ready = H5Pset_chunk(properties, static_cast<int>(chunk.size()), chunk.data()) >= 0 &&
            H5Pset_fletcher32(properties) >= 0;
  }
  const Hdf5Handle created(ready ? create_dataset(file_, dataset, file_type(type), space, properties) : -1, H5Dclose);
  CHECK(created >= 0, "cannot write ", dataset, " of ", aside_.path(), ": ", hdf5_reason());
}

void Hdf5Writer::write_numbers(const std::string& dataset, const Shape& shape, ElementType type, const void* data,
                               Layout layout) {
  create_numbers(dataset, shape, type, layout);
  if (element_count(shape) == 0) return;
  const Hdf5Lock lock;
  const Hdf5Handle opened(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT), H5Dclose);
  const bool written = opened >= 0 && H5Dwrite(opened, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
  CHECK(written, "cannot write ", dataset, " of ", aside_.path(), ": ", hdf5_reason());
}

void Hdf5Writer::write_number_rows(const std::string& dataset, int64_t first, int64_t count, ElementType type,
                                   const void* data) {
  const Hdf5Lock lock;
  const Hdf5Handle opened(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT), H5Dclose);
  CHECK(opened >= 0, "cannot write ", dataset, " of ", aside_.path(), ": ", hdf5_reason());
  const Hdf5Handle stored(H5Dget_type(opened), H5Tclose), space(H5Dget_space(opened), H5Sclose);
  Shape shape = shape_of(space);
  CHECK(stored_type(stored) == type, "cannot write ", dataset, " of ", aside_.path(), ": it holds ",
        name_of(stored_type(stored)), ", not ", name_of(type));
  CHECK(!shape.empty() && first >= 0 && count >= 0 && first + count <= shape[0], "cannot write rows ", first, " to ",
        first + count, " of ", dataset, " of ", aside_.path(), ": its shape is ", text_of(shape));
  if (count == 0 || element_count(shape) == 0) return;
  bool written = select_rows(space, shape, first, count);
  shape[0] = count;
  const Hdf5Handle memory(create_space(shape), H5Sclose);
  written = written && memory >= 0 && H5Dwrite(opened, memory_type(type), memory, space, H5P_DEFAULT, data) >= 0;
  CHECK(written, "cannot write ", dataset, " of ", aside_.path(), ": ", hdf5_reason());
}

void Hdf5Writer::write(const std::string& dataset, const std::vector<std::string>& texts) {
  const std::vector<const char*> pointers = pointers_to(texts, aside_.path(), dataset);
  const Hdf5Lock lock;
  const Hdf5Handle type(create_text_type(), H5Tclose), properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose),
      space(create_space({static_cast<int64_t>(texts.size())}), H5Sclose);
  const Hdf5Handle created(create_dataset(file_, dataset, type, space, properties), H5Dclose);
  bool written = created >= 0;
  if (written && !texts.empty()) {
    written = H5Dwrite(created, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()) >= 0;
  }
  CHECK(written, "cannot write ", dataset, " of ", aside_.path(), ": ", hdf5_reason());
}

void Hdf5Writer::create_group(const std::string& group) {
  const Hdf5Lock lock;
  const Hdf5Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Hdf5Handle created(H5Gcreate2(file_, group.c_str(), links, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  CHECK(created >= 0, "cannot write ", group, " of ", aside_.path(), ": ", hdf5_reason());
}

void Hdf5Writer::write_attribute(const std::string& object, const std::string& name, const AttributeValue& value) {
  const Hdf5Lock lock;
  const Hdf5Handle opened(H5Oopen(file_, object.c_str(), H5P_DEFAULT), H5Oclose);
  CHECK(opened >= 0, "cannot write attribute ", name, " of ", object, " of ", aside_.path(), ": ", hdf5_reason());
  const bool written = std::visit(
      [&]<class T>(const T& given) {
        const hid_t int64 = H5T_NATIVE_INT64, float64 = H5T_NATIVE_DOUBLE;
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, double>) {
          const hid_t type = std::is_same_v<T, double> ? float64 : int64;
          const Hdf5Handle space(create_space({}), H5Sclose);
          return write_attribute_as(opened, name, type, type, space, &given);
        } else if constexpr (std::is_same_v<T, std::string>) {
          const Hdf5Handle space(create_space({}), H5Sclose), type(create_text_type(), H5Tclose);
          return write_attribute_as(opened, name, type, type, space, pointers_to({given}, aside_.path(), name).data());
        } else {
          const Hdf5Handle space(create_space({static_cast<int64_t>(given.size())}), H5Sclose);
          if constexpr (std::is_same_v<T, std::vector<std::string>>) {
            const Hdf5Handle type(create_text_type(), H5Tclose);
            return write_attribute_as(opened, name, type, type, space, pointers_to(given, aside_.path(), name).data());
          } else {
            const hid_t type = std::is_same_v<T, std::vector<double>> ? float64 : int64;
            return write_attribute_as(opened, name, type, type, space, given.data());
          }
        }
      },
      value);
  CHECK(written, "cannot write attribute ", name, " of ", object, " of ", aside_.path(), ": ", hdf5_reason());
}

void Hdf5Writer::commit() {
  {
    const Hdf5Lock lock;
    CHECK(file_ >= 0, "cannot write ", aside_.path(), ": it has been committed");
    const int64_t file = std::exchange(file_, -1);
    CHECK(H5Fclose(file) >= 0, "cannot write ", aside_.path(), ": ", hdf5_reason());
  }
  if (sealed_) write_seal(aside_);
  aside_.commit();
}

void write_header(Hdf5Writer& file, const std::string& kind, int64_t version) {
  file.write_attribute("/", "format", "itemloom " + kind);
  file.write_attribute("/", "format_version", version);
}

}  // namespace itemloom
