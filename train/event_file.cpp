#include "train/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <system_error>

#include "core/check.h"
#include "core/files.h"

namespace itemloom {
namespace {

// Field numbers of Event, Summary, Summary.Value and SessionLog.
constexpr uint32_t kEventWallTime = 1, kEventStep = 2, kEventFileVersion = 3, kEventSummary = 5, kEventSessionLog = 7;
constexpr uint32_t kSummaryValue = 1, kValueTag = 1, kValueSimpleValue = 2;
constexpr uint32_t kSessionLogStatus = 1;
constexpr uint64_t kSessionStart = 1;

// A protocol buffer under construction.
class Message {
 public:
  Message& varint(uint32_t field, uint64_t value) {
    key(field, 0);
    raw_varint(value);
    return *this;
  }
  Message& float64(uint32_t field, double value) {
    key(field, 1);
    fixed(std::bit_cast<uint64_t>(value), 8);
    return *this;
  }
  Message& bytes(uint32_t field, std::string_view value) {
    key(field, 2);
    raw_varint(value.size());
    bytes_ += value;
    return *this;
  }
  Message& float32(uint32_t field, float value) {
    key(field, 5);
    fixed(std::bit_cast<uint32_t>(value), 4);
    return *this;
  }
  Message& fixed(uint64_t value, int size) {
    for (int index = 0; index < size; ++index) bytes_ += static_cast<char>(value >> (8 * index) & 0xff);
    return *this;
  }
  std::string_view text() const { return bytes_; }

 private:
  void key(uint32_t field, uint32_t wire_type) { raw_varint(field << 3 | wire_type); }
  void raw_varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7f) | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

constexpr std::array<uint32_t, 256> crc_table() {
  constexpr uint32_t kReversedPolynomial = 0x82f63b78;
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ (remainder & 1 ? kReversedPolynomial : 0);
    table[byte] = remainder;
  }
  return table;
}

Message event_now() {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return Message().float64(kEventWallTime, now.count());
}

std::string host_name() {
  char name[256] = "localhost";
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

uint32_t masked_crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t remainder = 0xffffffff;
  for (const char byte : bytes) {
    remainder = (remainder >> 8) ^ kTable[(remainder ^ static_cast<unsigned char>(byte)) & 0xff];
  }
  const uint32_t crc = ~remainder;
  return std::rotr(crc, 15) + 0xa282ead8;
}

EventFile::EventFile(const std::string& folder, int64_t steps_done) {
  make_folder(folder);
  const auto seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  path_ = join_message(folder, "/events.out.tfevents.", seconds, ".", host_name(), ".", getpid());
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  CHECK(descriptor_ >= 0, "cannot write ", path_, ": ", std::generic_category().message(errno));
  write_record(event_now().bytes(kEventFileVersion, "brain.Event:2").text());
  if (steps_done > 0) {
    const Message session = Message().varint(kSessionLogStatus, kSessionStart);
    write_record(event_now()
                     .varint(kEventStep, static_cast<uint64_t>(steps_done + 1))
                     .bytes(kEventSessionLog, session.text())
                     .text());
  }
}

EventFile::~EventFile() {
  close(descriptor_);
}

void EventFile::write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  Message summary;
  for (const auto& [tag, value] : scalars) {
    const Message scalar = Message().bytes(kValueTag, tag).float32(kValueSimpleValue, static_cast<float>(value));
    summary.bytes(kSummaryValue, scalar.text());
  }
  write_record(event_now().varint(kEventStep, static_cast<uint64_t>(step)).bytes(kEventSummary, summary.text()).text());
}

void EventFile::write_record(std::string_view event) {
  const Message length = Message().fixed(event.size(), 8);
  const Message length_crc = Message().fixed(masked_crc32c(length.text()), 4);
  const Message event_crc = Message().fixed(masked_crc32c(event), 4);
  std::string record(length.text());
  record.append(length_crc.text()).append(event).append(event_crc.text());
  const ssize_t written = ::write(descriptor_, record.data(), record.size());
  CHECK(written == static_cast<ssize_t>(record.size()), "cannot write ", path_, ": ",
        written < 0 ? std::generic_category().message(errno) : "No space left on device");
}

}  // namespace itemloom
