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
  finish();
  copy(state);
  writing_ = std::async(std::launch::async, [this, targets] { write(targets); });
}

void CheckpointWriter::copy(const CheckpointState& state) {
  snapshot_ = state;
  int64_t bytes = 0;
  for (const auto* tensors : {&snapshot_.parameters, &snapshot_.optimizer_slots}) {
    for (const NamedTensor& tensor : *tensors) bytes += bytes_of(tensor);
  }
  if (memory_.bytes() < bytes) memory_ = HostBlock(bytes);
  std::byte* place = memory_.data();
  for (auto* tensors : {&snapshot_.parameters, &snapshot_.optimizer_slots}) {
    for (NamedTensor& tensor : *tensors) {
      const int64_t tensor_bytes = bytes_of(tensor);
      device_.copy_to_host(reinterpret_cast<const std::byte*>(tensor.data), place, tensor_bytes);
      tensor.data = reinterpret_cast<float*>(place);
      place += tensor_bytes;
    }
  }
}

void CheckpointWriter::write(const CheckpointTargets& targets) const {
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
