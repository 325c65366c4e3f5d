#include "core/hdf5_handle.h"

#include <vector>

#include "core/rank_status.h"

namespace itemloom {
namespace {

static_assert(sizeof(hid_t) == sizeof(int64_t), "core/hdf5.h keeps identifiers as int64_t");

std::mutex& hdf5_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Walks from the innermost entry outwards.
herr_t collect_reason(unsigned /*place*/, const H5E_error2_t* entry, void* result) {
  constexpr std::string_view kMark = "error message = '";
  std::string& reason = *static_cast<std::string*>(result);
  const std::string description = entry->desc == nullptr ? "" : entry->desc;
  const size_t mark = description.find(kMark);
  if (mark != std::string::npos) {
    const size_t begin = mark + kMark.size();
    reason = description.substr(begin, description.find('\'', begin) - begin);
    return 1;
  }
  if (reason.empty()) reason = description;
  return 0;
}

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(hdf5_mutex()) {
  static const bool stays = H5dont_atexit() >= 0;
  static thread_local const bool silent = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  CHECK(stays && silent, "the HDF5 library does not start");
  heartbeat();
}

std::string hdf5_reason() {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect_reason, &reason);
  return reason.empty() ? "the HDF5 library gives no reason" : reason;
}

const char* name_of(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat64:
      return "float64";
    case ElementType::kInt32:
      return "int32";
    case ElementType::kInt64:
      return "int64";
    case ElementType::kUint8:
      return "uint8";
    case ElementType::kUint64:
      return "uint64";
    case ElementType::kText:
      return "text";
    case ElementType::kOther:
      break;
  }
  return "other";
}

hid_t memory_type(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return H5T_NATIVE_FLOAT;
    case ElementType::kFloat64:
      return H5T_NATIVE_DOUBLE;
    case ElementType::kInt32:
      return H5T_NATIVE_INT32;
    case ElementType::kInt64:
      return H5T_NATIVE_INT64;
    case ElementType::kUint8:
      return H5T_NATIVE_UINT8;
    case ElementType::kUint64:
      return H5T_NATIVE_UINT64;
    default:
      fail("there is no number type ", name_of(type));
  }
}

hid_t file_type(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return H5T_IEEE_F32LE;
    case ElementType::kFloat64:
      return H5T_IEEE_F64LE;
    case ElementType::kInt32:
      return H5T_STD_I32LE;
    case ElementType::kInt64:
      return H5T_STD_I64LE;
    case ElementType::kUint8:
      return H5T_STD_U8LE;
    case ElementType::kUint64:
      return H5T_STD_U64LE;
    default:
      fail("there is no number type ", name_of(type));
  }
}

hid_t create_text_type() {
  const hid_t type = H5Tcopy(H5T_C_S1);
  const bool ready = type >= 0 && H5Tset_size(type, H5T_VARIABLE) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
  CHECK(ready, "the HDF5 library makes no text type: ", hdf5_reason());
  return type;
}

ElementType stored_type(hid_t type) {
  if (H5Tget_class(type) == H5T_STRING) {
    return H5Tis_variable_str(type) > 0 ? ElementType::kText : ElementType::kOther;
  }
  for (const ElementType candidate : {ElementType::kFloat32, ElementType::kFloat64, ElementType::kInt32,
                                      ElementType::kInt64, ElementType::kUint8, ElementType::kUint64}) {
    if (H5Tequal(type, file_type(candidate)) > 0) return candidate;
  }
  return ElementType::kOther;
}

hid_t create_space(const Shape& shape) {
  CHECK(shape.size() <= 4, "a dataset of ", shape.size(), " extents was asked for, 4 is the most");
  if (shape.empty()) return H5Screate(H5S_SCALAR);
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  return H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
}

bool select_rows(hid_t space, const Shape& shape, int64_t first, int64_t count) {
  std::vector<hsize_t> start(shape.size(), 0), extents(shape.begin(), shape.end());
  start[0] = static_cast<hsize_t>(first);
  extents[0] = static_cast<hsize_t>(count);
  return H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, extents.data(), nullptr) >= 0;
}

Shape shape_of(hid_t space) {
  const int rank = H5Sget_simple_extent_ndims(space);
  CHECK(rank >= 0, "the HDF5 library gives no extents: ", hdf5_reason());
  std::vector<hsize_t> extents(static_cast<size_t>(rank));
  if (rank > 0) H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  return Shape(extents.begin(), extents.end());
}

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

std::string text_of(const Shape& shape) {
  std::string text = "(";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += join_message(axis == 0 ? "" : ", ", shape[axis]);
  return text + ")";
}

}  // namespace itemloom
