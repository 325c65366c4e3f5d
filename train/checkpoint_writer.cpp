#include "train/checkpoint_writer.h"

#include <spdlog/spdlog.h>

#include <filesystem>

#include "core/files.h"

namespace itemloom {
namespace {

void make_folder_of(const std::string& file) {
  const std::string folder = std::filesystem::path(file).parent_path().string();
  if (!folder.empty()) make_folder(folder);
}

}  // namespace

CheckpointWriter::~CheckpointWriter() {
  try {
    finish();
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
  }
}

void CheckpointWriter::finish() {
  if (writing_.valid()) writing_.get();
}

void CheckpointWriter::save(const CheckpointState& state, const CheckpointTargets& targets) {
  begin(state);
  copy_parameters();
  copy_optimizer_slots(0, state.optimizer_slots.size());
  write(targets);
}

void CheckpointWriter::begin(const CheckpointState& state) {
  finish();
  state_ = snapshot_ = state;
  int64_t bytes = 0;
  for (const auto* tensors : {&state_.parameters, &state_.optimizer_slots}) {
    for (const NamedTensor& tensor : *tensors) bytes += bytes_of(tensor);
  }
  if (memory_.bytes() < bytes) memory_ = HostBlock(bytes);
  std::byte* place = memory_.data();
  for (auto* tensors : {&snapshot_.parameters, &snapshot_.optimizer_slots}) {
    for (NamedTensor& tensor : *tensors) {
      tensor.data = reinterpret_cast<float*>(place);
      place += bytes_of(tensor);
    }
  }
}

void CheckpointWriter::copy(const NamedTensor& from, const NamedTensor& to) {
  device_.copy_to_host(from.data, to.data, bytes_of(from) / static_cast<int64_t>(sizeof(float)));
}

void CheckpointWriter::copy_parameters() {
  for (size_t index = 0; index < state_.parameters.size(); ++index) {
    copy(state_.parameters[index], snapshot_.parameters[index]);
  }
}

void CheckpointWriter::copy_optimizer_slots(size_t first, size_t count) {
  for (size_t index = first; index < first + count; ++index) {
    copy(state_.optimizer_slots[index], snapshot_.optimizer_slots[index]);
  }
}

void CheckpointWriter::write(const CheckpointTargets& targets) {
  writing_ = std::async(std::launch::async, [this, targets] { write_now(targets); });
}

void CheckpointWriter::write_now(const CheckpointTargets& targets) const {
  for (const CheckpointTargets::Link& link : targets.links) {
    make_folder_of(link.to);
    link_or_copy_file(link.from, link.to);
  }
  for (const std::string& file : targets.files) {
    make_folder_of(file);
    save_checkpoint(file, snapshot_);
  }
  for (const std::string& file : targets.removed) remove_file(file);
}

}  // namespace itemloom
