#include "data/dataset.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/files.h"
#include "core/hdf5.h"
#include "data/text.h"

namespace itemloom {
namespace {

constexpr char kKind[] = "dataset";
constexpr int64_t kVersion = 1;

// Texts end with a zero byte in the hash, which no text of ours can hold.
template <class Texts>
void hash_texts(Sha256& hash, const Texts& texts, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    hash.update(std::string_view(texts[i]));
    hash.update("\0", 1);
  }
}

template <class T>
void hash_view(Sha256& hash, const char* name, Vector<const T> view) {
  const int64_t size = view.size();
  hash.update(std::string_view(name));
  hash.update(&size, sizeof(size));
  hash.update(view.data(), size * static_cast<int64_t>(sizeof(T)));
}

std::vector<std::string> to_texts(const Vocabulary& vocabulary) {
  std::vector<std::string> texts;
  texts.reserve(static_cast<size_t>(vocabulary.size()));
  for (int32_t i = 0; i < vocabulary.size(); ++i) texts.emplace_back(vocabulary[i]);
  return texts;
}

Vocabulary read_vocabulary(const Hdf5Reader& file, const std::string& name) {
  StringTable table;
  for (const std::string& text : file.read_texts(name)) table.add(text);
  try {
    return Vocabulary(table);
  } catch (const Error& error) {
    fail(file.path(), ": ", name, ": ", error.what());
  }
}

// A whole file, mapped read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(descriptor >= 0, path, " cannot be opened: ", std::strerror(errno));
    struct stat status {};
    const bool known = fstat(descriptor, &status) == 0;
    bytes_ = known ? status.st_size : 0;
    data_ = known ? mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ, MAP_SHARED, descriptor, 0) : MAP_FAILED;
    const int error = errno;
    close(descriptor);
    CHECK(data_ != MAP_FAILED, path, " cannot be mapped into memory: ", std::strerror(error));
  }
  ~MappedFile() { munmap(data_, static_cast<size_t>(bytes_)); }
  MappedFile(const MappedFile&) = delete;

  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_;
  int64_t bytes_;
};

template <class T>
Vector<const T> mapped(const Hdf5Reader& file, const MappedFile& map, const std::string& name, int64_t expected = -1) {
  const DatasetInfo info = file.info(name);
  CHECK(info.type == element_type<T>() && info.shape.size() == 1, file.path(), ": ", name, " is no list of ",
        name_of(element_type<T>()));
  const int64_t size = info.shape[0];
  CHECK(expected < 0 || size == expected, file.path(), ": ", name, " has ", size, " entries where ", expected,
        " are expected");
  CHECK(info.offset > 0 && info.offset % static_cast<int64_t>(alignof(T)) == 0 &&
            size <= (map.bytes() - info.offset) / static_cast<int64_t>(sizeof(T)),
        file.path(), ": ", name, " is not stored in one piece within the file");
  return Vector<const T>(reinterpret_cast<const T*>(map.data() + info.offset), size);
}

void check_sequences(const Dataset& dataset, const std::string& path) {
  CHECK(dataset.offsets[0] == 0, path, ": /sequences/offsets[0] is ", dataset.offsets[0], ", not 0");
  for (int64_t s = 0; s < dataset.sequence_count(); ++s) {
    CHECK(dataset.offsets[s] <= dataset.offsets[s + 1], path, ": /sequences/offsets[", s + 1, "] is ",
          dataset.offsets[s + 1], ", less than the one before it, ", dataset.offsets[s]);
  }
  CHECK(dataset.offsets[dataset.sequence_count()] == dataset.interaction_count(), path,
        ": the last of /sequences/offsets is ", dataset.offsets[dataset.sequence_count()], ", but there are ",
        dataset.interaction_count(), " items");
  const int64_t limit = dataset.item_count();
  for (int64_t i = 0; i < dataset.interaction_count(); ++i) {
    CHECK(dataset.items[i] >= 0 && dataset.items[i] < limit, path, ": /sequences/items[", i, "] is ", dataset.items[i],
          ", but there are ", limit, " items");
  }
}

}  // namespace

int32_t Dataset::find_item(const std::string& id) const {
  const int32_t item = item_ids.find(id);
  CHECK(item >= 0, "no item has the id ", in_quotes(id), ".", suggestion(item_ids, id));
  return item;
}

std::string content_hash(const Dataset& dataset) {
  Sha256 hash;
  hash_view(hash, "offsets", dataset.offsets);
  hash_view(hash, "items", dataset.items);
  hash_view(hash, "timestamps", dataset.timestamps);
  hash_view(hash, "baskets", dataset.baskets);
  hash_texts(hash, dataset.sequence_ids, dataset.sequence_ids.size());
  hash_texts(hash, dataset.item_ids, dataset.item_ids.size());
  hash_texts(hash, dataset.titles, static_cast<int64_t>(dataset.titles.size()));
  hash_view(hash, "counts", Vector<const int64_t>(dataset.item_counts.data(), dataset.item_counts.size()));
  hash.update(dataset.sequence_by + " " + dataset.timestamp_unit);
  return hash.hex();
}

void save_dataset(const Dataset& dataset, const std::string& path) {
  Hdf5Writer file(path, /*sealed=*/true);
  write_header(file, kKind, kVersion);
  file.write("/sequences/offsets", dataset.offsets);
  file.write("/sequences/items", dataset.items);
  if (dataset.timestamps) file.write("/sequences/timestamps", dataset.timestamps);
  if (dataset.baskets) file.write("/sequences/baskets", dataset.baskets);
  file.write("/user/id", to_texts(dataset.sequence_ids));
  file.write("/item/id", to_texts(dataset.item_ids));
  if (!dataset.titles.empty()) file.write("/item/title", dataset.titles);
  file.write("/item/count", dataset.item_counts);
  file.write_attribute("/", "sequence_by", dataset.sequence_by);
  file.write_attribute("/", "timestamp_unit", dataset.timestamp_unit);
  file.write_attribute("/", "sha256", dataset.hash);
  file.create_group("/provenance");
  file.write_attribute("/provenance", "sources", dataset.sources);
  file.write_attribute("/provenance", "config", dataset.config);
  file.write_attribute("/provenance", "report", dataset.report);
  file.commit();
}

Dataset load_dataset(const std::string& path, DatasetUse use) {
  // Reading all of it to check the seal is for the one that verifies it.
  const Hdf5Reader file(path, use == DatasetUse::kTraining ? Seal::kIntact : examine_seal(path));
  check_header(file, kKind, kVersion);
  const auto map = std::make_shared<MappedFile>(path);
  Dataset dataset;
  dataset.item_counts = file.read<int64_t>("/item/count");
  dataset.offsets = mapped<int64_t>(file, *map, "/sequences/offsets");
  dataset.items = mapped<int32_t>(file, *map, "/sequences/items");
  const int64_t interactions = dataset.interaction_count();
  if (file.exists("/sequences/timestamps")) {
    dataset.timestamps = mapped<int64_t>(file, *map, "/sequences/timestamps", interactions);
  }
  if (file.exists("/sequences/baskets")) {
    dataset.baskets = mapped<int32_t>(file, *map, "/sequences/baskets", interactions);
  }
  dataset.storage = map;
  dataset.sequence_by = file.attribute<std::string>("/", "sequence_by");
  dataset.timestamp_unit = file.attribute<std::string>("/", "timestamp_unit");
  dataset.hash = file.attribute<std::string>("/", "sha256");
  if (use == DatasetUse::kTraining) return dataset;
  dataset.item_ids = read_vocabulary(file, "/item/id");
  dataset.sequence_ids = read_vocabulary(file, "/user/id");
  if (file.exists("/item/title")) dataset.titles = file.read_texts("/item/title");
  dataset.sources = file.attribute<std::string>("/provenance", "sources");
  dataset.config = file.attribute<std::string>("/provenance", "config");
  dataset.report = file.attribute<std::string>("/provenance", "report");
  CHECK(dataset.offsets.size() == dataset.sequence_ids.size() + 1, path, ": /sequences/offsets has ",
        dataset.offsets.size(), " entries for ", dataset.sequence_ids.size(), " of /user/id");
  CHECK(dataset.item_count() == dataset.item_ids.size() &&
            (dataset.titles.empty() || static_cast<int64_t>(dataset.titles.size()) == dataset.item_count()),
        path, ": /item/count or /item/title has another number of entries than /item/id");
  check_sequences(dataset, path);
  CHECK(content_hash(dataset) == dataset.hash, path,
        " is damaged: its content does not match its SHA-256; prepare it again");
  return dataset;
}

}  // namespace itemloom
