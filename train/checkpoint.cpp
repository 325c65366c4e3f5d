#include "train/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "core/check.h"
#include "core/files.h"
#include "core/hdf5.h"

namespace itemloom {
namespace {

constexpr int64_t kVersion = 1;
constexpr char kKind[] = "checkpoint";
constexpr char kParameters[] = "/parameters";
constexpr char kOptimizer[] = "/optimizer";

// A sum over values with their lengths, so that no two contents have the same bytes.
class ContentSum {
 public:
  void add(int64_t value) { sum_.update(&value, sizeof(value)); }
  void add(double value) { sum_.update(&value, sizeof(value)); }
  void add(const std::string& text) {
    add(static_cast<int64_t>(text.size()));
    sum_.update(text);
  }
  void add(const std::vector<NamedTensor>& tensors) {
    std::vector<const NamedTensor*> sorted;
    for (const NamedTensor& tensor : tensors) sorted.push_back(&tensor);
    std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->name < b->name; });
    add(static_cast<int64_t>(sorted.size()));
    for (const NamedTensor* tensor : sorted) {
      add(tensor->name);
      add(static_cast<int64_t>(tensor->shape.size()));
      for (const int64_t extent : tensor->shape) add(extent);
      sum_.update(tensor->data, bytes_of(*tensor));
    }
  }
  template <class Value>
  void add(const std::map<std::string, Value>& entries) {
    add(static_cast<int64_t>(entries.size()));
    for (const auto& [name, value] : entries) {
      add(name);
      add(value);
    }
  }
  std::string hex() { return sum_.hex(); }

 private:
  Sha256 sum_;
};

std::string content_hash(const CheckpointState& state) {
  ContentSum sum;
  sum.add(state.parameters);
  sum.add(state.optimizer_slots);
  sum.add(state.texts);
  sum.add(state.integers);
  sum.add(state.numbers);
  return sum.hex();
}

void write_tensors(Hdf5Writer& file, const std::string& group, const std::vector<NamedTensor>& tensors) {
  file.create_group(group);
  for (const NamedTensor& tensor : tensors) file.write(group + "/" + tensor.name, tensor.shape, tensor.data);
}

template <class Value>
void write_entries(Hdf5Writer& file, const std::string& group, const std::map<std::string, Value>& entries) {
  file.create_group(group);
  for (const auto& [name, value] : entries) file.write_attribute(group, name, value);
}

template <class Value>
std::map<std::string, Value> read_entries(const Hdf5Reader& file, const std::string& group) {
  std::map<std::string, Value> entries;
  for (const auto& [name, value] : file.attributes(group)) entries.emplace(name, std::get<Value>(value));
  return entries;
}

CheckpointEntries read_all_entries(const Hdf5Reader& file) {
  return {.texts = read_entries<std::string>(file, "/texts"),
          .integers = read_entries<int64_t>(file, "/integers"),
          .numbers = read_entries<double>(file, "/numbers")};
}

bool starts_as_hdf5(const std::string& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  std::ifstream file(path, std::ios::binary);
  std::string begin(kSignature.size(), '\0');
  file.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  return begin == kSignature;
}

// A file is handed to the HDF5 library only when its seal is intact or, to say what else it is, when it never had one.
std::unique_ptr<Hdf5Reader> open_checkpoint(const std::string& path) {
  const Seal seal = examine_seal(path);
  CHECK(seal != Seal::kBroken, "checkpoint ", path,
        " is damaged (its checksum is not that of its content); copy another checkpoint of the run over it "
        "(checkpoint-best.h5, or one in checkpoints/)");
  CHECK(seal == Seal::kIntact || starts_as_hdf5(path), path, " is not a checkpoint, or its beginning is damaged");
  auto file = std::make_unique<Hdf5Reader>(path, seal);
  check_header(*file, kKind, kVersion);
  CHECK(seal == Seal::kIntact, "checkpoint ", path, " has no checksum; use one that itemloom has written");
  return file;
}

// Names of all datasets below a group, as paths from there.
void collect_names(const Hdf5Reader& file, const std::string& group, const std::string& prefix,
                   std::set<std::string>& names) {
  for (const std::string& child : file.children(group)) {
    const std::string path = group + "/" + child;
    if (file.is_group(path)) {
      collect_names(file, path, prefix + child + "/", names);
    } else {
      names.insert(prefix + child);
    }
  }
}

// `whole` and `part` are the words for what holds the tensors and for one of them.
void check_tensors(const Hdf5Reader& file, const std::string& group, const std::vector<NamedTensor>& tensors,
                   const std::string& whole, const std::string& part) {
  const std::string other = join_message(file.path(), " is a checkpoint of another ", whole, ": ", part, " ");
  std::set<std::string> names;
  collect_names(file, group, "", names);
  for (const NamedTensor& tensor : tensors) {
    CHECK(names.erase(tensor.name) == 1, other, tensor.name, ", of shape ", text_of(tensor.shape),
          " here, is not in it");
    const DatasetInfo info = file.info(group + "/" + tensor.name);
    CHECK(info.shape == tensor.shape, other, tensor.name, " has shape ", text_of(info.shape), " there and ",
          text_of(tensor.shape), " here");
    CHECK(info.type == ElementType::kFloat32, other, tensor.name, " holds ", name_of(info.type),
          " there and float32 here");
  }
  CHECK(names.empty(), other, *names.begin(), ", of shape ", text_of(file.info(group + "/" + *names.begin()).shape),
        " there, does not exist here");
}

void check_dataset(const std::string& path, const CheckpointEntries& there, const CheckpointEntries& here) {
  const auto wanted = here.texts.find("dataset_hash"), found = there.texts.find("dataset_hash");
  if (wanted == here.texts.end()) return;
  CHECK(found != there.texts.end() && found->second == wanted->second, path,
        " was trained on another dataset than the run's; put back the data it began with");
}

void check_config(const std::string& path, const CheckpointEntries& there, const CheckpointEntries& here) {
  const auto wanted = here.texts.find("config_fingerprint"), found = there.texts.find("config_fingerprint");
  if (wanted == here.texts.end()) return;
  CHECK(found != there.texts.end() && found->second == wanted->second, path,
        " is of a run with another config, or of another version of itemloom (its fingerprint differs); put back a "
        "checkpoint of this run");
}

void read_tensors(const Hdf5Reader& file, const std::string& group, const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& tensor : tensors) file.read(group + "/" + tensor.name, tensor.shape, tensor.data);
}

}  // namespace

std::string pack_entries(const CheckpointEntries& entries) {
  const nlohmann::json object = {
      {"texts", entries.texts}, {"integers", entries.integers}, {"numbers", entries.numbers}};
  std::string bytes;
  nlohmann::json::to_cbor(object, bytes);
  return bytes;
}

CheckpointEntries unpack_entries(const std::string& bytes) {
  const nlohmann::json object = nlohmann::json::from_cbor(bytes);
  CheckpointEntries entries;
  object.at("texts").get_to(entries.texts);
  object.at("integers").get_to(entries.integers);
  object.at("numbers").get_to(entries.numbers);
  return entries;
}

std::vector<NamedTensor> tensors_of(const ParameterStore& store, Vector<float> buffer, const std::string& prefix) {
  std::vector<NamedTensor> tensors;
  for (const ParameterInfo& info : store.infos()) {
    tensors.push_back({.name = prefix + info.name, .shape = info.shape, .data = buffer.data() + info.offset});
  }
  return tensors;
}

int64_t bytes_of(const NamedTensor& tensor) {
  int64_t bytes = sizeof(float);
  for (const int64_t extent : tensor.shape) bytes *= extent;
  return bytes;
}

std::string save_checkpoint(const std::string& path, const CheckpointState& state) {
  const std::string hash = content_hash(state);
  Hdf5Writer file(path, true);
  write_header(file, kKind, kVersion);
  file.write_attribute("/", "content_sha256", hash);
  write_tensors(file, kParameters, state.parameters);
  write_tensors(file, kOptimizer, state.optimizer_slots);
  write_entries(file, "/texts", state.texts);
  write_entries(file, "/integers", state.integers);
  write_entries(file, "/numbers", state.numbers);
  file.commit();
  return hash;
}

std::string load_checkpoint(const std::string& path, CheckpointState& state) {
  const std::unique_ptr<Hdf5Reader> file = open_checkpoint(path);
  CheckpointEntries entries = read_all_entries(*file);
  // Before shapes, which another dataset changes too.
  check_dataset(path, entries, state);
  check_tensors(*file, kParameters, state.parameters, "model", "parameter");
  if (!state.optimizer_slots.empty()) {
    check_tensors(*file, kOptimizer, state.optimizer_slots, "optimizer", "its state");
  }
  check_config(path, entries, state);
  read_tensors(*file, kParameters, state.parameters);
  read_tensors(*file, kOptimizer, state.optimizer_slots);
  static_cast<CheckpointEntries&>(state) = std::move(entries);
  return file->attribute<std::string>("/", "content_sha256");
}

CheckpointEntries read_checkpoint_header(const std::string& path) {
  return read_all_entries(*open_checkpoint(path));
}

}  // namespace itemloom
