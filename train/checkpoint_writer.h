// Checkpoints written in the background: training goes on while a snapshot of its state is hashed, written and flushed.
//
// The snapshot is one more copy of parameters and optimizer state, taken when the first checkpoint is saved and kept
// until the writer ends: with Adam a run needs about three times the parameters' bytes for it, on top of its own.
// Reading HDF5 files meanwhile is safe (core/hdf5.h), a reader just waits while a tensor is written.
#pragma once

#include <future>
#include <string>
#include <vector>

#include "core/device.h"
#include "train/checkpoint.h"

namespace itemloom {

// What is done with a snapshot, in this order; each step is on disk before the next one begins. Folders are made.
struct CheckpointTargets {
  struct Link {
    std::string from, to;
  };
  std::vector<Link> links;           // files of before that get a second name, by link_or_copy_file
  std::vector<std::string> files;    // where the snapshot is written: files of their own, so that damage to one is all
  std::vector<std::string> removed;  // files of before that go

  bool empty() const { return links.empty() && files.empty() && removed.empty(); }
};

// One write is under way at a time. What has gone wrong in it (a full disk) is thrown once, by the next save() or
// finish(); targets not yet reached then are as before.
class CheckpointWriter {
 public:
  // Of tensors in the memory of `device`.
  explicit CheckpointWriter(Device& device) : device_(device) {}
  // Waits for the write under way. An error that nobody has asked for is logged.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Waits for the write before, copies all of `state`, starts to write and returns: `state` and what it views may then
  // change. The copy's memory is taken once, as long as the tensors' sizes stay the same.
  void save(const CheckpointState& state, const CheckpointTargets& targets);

  // The same in pieces, for a state whose tensors are not all there at once: begin() waits and makes room, copy_*()
  // takes what the views of these tensors show now, write() starts to write.
  void begin(const CheckpointState& state);
  void copy_parameters();
  void copy_optimizer_slots(size_t first, size_t count);
  void write(const CheckpointTargets& targets);

  // Returns when everything is on disk. To be called before anybody is told that a state is saved.
  void finish();

 private:
  void copy(const NamedTensor& from, const NamedTensor& to);
  void write_now(const CheckpointTargets& targets) const;

  Device& device_;
  CheckpointState state_;     // as given
  CheckpointState snapshot_;  // its tensors are in memory_
  HostBlock memory_;
  std::future<void> writing_;
};

}  // namespace itemloom
