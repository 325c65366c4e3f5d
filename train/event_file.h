// TensorBoard's event files, written by hand: records framed as TFRecord (length, masked CRC-32C of it, bytes, masked
// CRC-32C of them) that each hold one protocol buffer `Event` (tensorboard/compat/proto/event.proto, summary.proto).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace itemloom {

class EventFile {
 public:
  // Creates `folder`/events.out.tfevents.<time>.<host>.<pid>. A run that goes on tells how many steps are done: what
  // other files of the folder hold for later steps is then void to TensorBoard.
  EventFile(const std::string& folder, int64_t steps_done);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  const std::string& path() const { return path_; }

  // One event with these tags and values, handed to the operating system at once.
  void write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void write_record(std::string_view event);

  std::string path_;
  int descriptor_;
};

// CRC-32C (Castagnoli) as TFRecord stores it.
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace itemloom
