// Checkpoints: all that a run needs to go on as if it had never stopped, in one HDF5 file that does not know how many
// ranks wrote it.
//
// The file is written aside, sealed with its SHA-256 (core/hdf5.h), flushed and renamed: a name always leads to a whole
// checkpoint, and a damaged one is noticed before anything is taken from it.
//
//   /parameters/<name>, /optimizer/<name>   float32 tensors
//   /texts, /integers, /numbers             groups whose attributes are the entries
//   content_sha256 (of "/")                 of names, shapes, values and entries, whatever the file's layout
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/parameters.h"
#include "core/view.h"

namespace itemloom {

// A view of a tensor that is saved or restored. Files are written from and read into host memory; a CheckpointWriter's
// snapshot is what brings a device's there.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  float* data;
};

int64_t bytes_of(const NamedTensor& tensor);

// What is neither parameters nor optimizer state.
struct CheckpointEntries {
  std::map<std::string, std::string> texts;  // resolved config, dataset hash, model fingerprint, metrics, ...
  std::map<std::string, int64_t> integers;   // step, epoch, batch in the epoch, skipped steps, best epoch, ...
  std::map<std::string, double> numbers;     // best metric, loss sums of the epoch so far, ...
};

// Entries as bytes that another rank reads back exactly.
std::string pack_entries(const CheckpointEntries& entries);
CheckpointEntries unpack_entries(const std::string& bytes);

struct CheckpointState : CheckpointEntries {
  std::vector<NamedTensor> parameters;
  // Names like adam.first_moment/encoder.0.attention.qkv.weight.
  std::vector<NamedTensor> optimizer_slots;
};

// Views of each parameter in a buffer that is laid out as the store's, named `prefix` + the parameter's name.
std::vector<NamedTensor> tensors_of(const ParameterStore& store, Vector<float> buffer, const std::string& prefix = "");

// Gives the content's SHA-256. Throws when the file cannot be written; the file of that name is then as before.
std::string save_checkpoint(const std::string& path, const CheckpointState& state);

// Fills the views, replaces the entries, and gives the SHA-256 that save_checkpoint gave. Throws, before anything of
// `state` is touched, when the file is missing, damaged, of another kind, when the state has a text dataset_hash or
// config_fingerprint and the file another, or when a name or shape differs. A state without optimizer slots takes none,
// whatever the file has.
std::string load_checkpoint(const std::string& path, CheckpointState& state);

// The entries alone, from a file verified in the same way.
CheckpointEntries read_checkpoint_header(const std::string& path);

}  // namespace itemloom
