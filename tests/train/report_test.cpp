#include "train/report.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"
#include "train/event_file.h"

namespace itemloom {
namespace {

using Catch::Matchers::Contains;
using nlohmann::json;
using test::TemporaryFolder;

// Catches what is written to standard error while it lives.
class CaughtStandardError {
 public:
  explicit CaughtStandardError(const std::string& path) : path_(path), before_(dup(STDERR_FILENO)) {
    const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(descriptor, STDERR_FILENO);
    close(descriptor);
  }
  ~CaughtStandardError() {
    dup2(before_, STDERR_FILENO);
    close(before_);
  }
  std::string text() const { return test::read_text(path_); }

 private:
  std::string path_;
  int before_;
};

TEST_CASE("metrics are appended line by line", "[report]") {
  TemporaryFolder folder;
  const std::string path = folder.path("metrics.jsonl");
  MetricsLog log(path, 0);
  REQUIRE(test::read_text(path).empty());
  log.append({{"epoch", 1}, {"loss", 5.25}});
  REQUIRE(test::read_text(path) == "{\"epoch\":1,\"loss\":5.25}\n");
  log.append({{"epoch", 2}, {"loss", std::numeric_limits<double>::quiet_NaN()}});
  REQUIRE(test::read_text(path) == "{\"epoch\":1,\"loss\":5.25}\n{\"epoch\":2,\"loss\":null}\n");
}

TEST_CASE("a run that goes on keeps the lines of its epochs and no other", "[report]") {
  TemporaryFolder folder;
  const std::string path = folder.path("metrics.jsonl");
  const std::string first = "{\"epoch\":1,\"loss\":5.0}\n{\"epoch\": 2, \"loss\": 4.0}\n";
  const std::string after = "{\"epoch\":3,\"loss\":3.0}\n";
  test::write_text(path, first + "{\"epoch\":2,\"lo\nnonsense\n\n[2]\n{\"loss\":1}\n" + after + "{\"epoch\":2}");
  {
    MetricsLog log(path, 2);
    REQUIRE(test::read_text(path) == first);
    log.append({{"epoch", 3}});
    REQUIRE(test::read_text(path) == first + "{\"epoch\":3}\n");
  }
  { MetricsLog(path, 1); }
  REQUIRE(test::read_text(path) == "{\"epoch\":1,\"loss\":5.0}\n");
  { MetricsLog(path, 0); }
  REQUIRE(test::read_text(path).empty());
  { MetricsLog(folder.path("other.jsonl"), 4); }
  REQUIRE(test::read_text(folder.path("other.jsonl")).empty());
  REQUIRE_THROWS_WITH(MetricsLog(folder.path("missing/metrics.jsonl"), 0), Contains("does not exist"));
}

// Reads TFRecords, with their checksums, as the format's description says.
std::vector<std::string> records_of(const std::string& path) {
  const std::string bytes = read_whole_file(path);
  std::vector<std::string> records;
  size_t place = 0;
  while (place < bytes.size()) {
    uint64_t size = 0;
    uint32_t size_crc = 0, record_crc = 0;
    REQUIRE(place + 16 <= bytes.size());
    std::memcpy(&size, &bytes[place], 8);
    std::memcpy(&size_crc, &bytes[place + 8], 4);
    REQUIRE(size_crc == masked_crc32c(bytes.substr(place, 8)));
    REQUIRE(place + 16 + size <= bytes.size());
    records.push_back(bytes.substr(place + 12, size));
    std::memcpy(&record_crc, &bytes[place + 12 + size], 4);
    REQUIRE(record_crc == masked_crc32c(records.back()));
    place += 16 + size;
  }
  return records;
}

TEST_CASE("CRC-32C agrees with its published check value", "[report]") {
  const uint32_t check = 0xe3069283;
  REQUIRE(masked_crc32c("123456789") == (check >> 15 | check << 17) + 0xa282ead8);
  REQUIRE(masked_crc32c("") == 0xa282ead8);
  // 32 zero bytes, an example of RFC 3720.
  const uint32_t zeros = 0x8a9136aa;
  REQUIRE(masked_crc32c(std::string(32, '\0')) == (zeros >> 15 | zeros << 17) + 0xa282ead8);
}

TEST_CASE("event files hold scalars in the protocol buffers of TensorBoard", "[report]") {
  TemporaryFolder folder;
  std::string path;
  {
    EventFile events(folder.path("events"), 0);
    path = events.path();
    events.write(300, {{"loss", 0.5}, {"ndcg@10", -2}});
    REQUIRE(records_of(path).size() == 2);
    events.write(0, {{"loss", 1}});
  }
  REQUIRE_THAT(path, Contains("/events/events.out.tfevents.") && Contains("." + std::to_string(getpid())));
  const std::vector<std::string> records = records_of(path);
  REQUIRE(records.size() == 3);
  // Field 1 (a double) in front of each, then the rest.
  for (const std::string& record : records) REQUIRE(record[0] == '\x09');
  REQUIRE(records[0].substr(9) ==
          "\x1a\x0d"
          "brain.Event:2");
  const std::string loss = std::string("\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f", 13);
  const std::string ndcg = std::string("\x0a\x0e\x0a\x07ndcg@10\x15\x00\x00\x00\xc0", 16);
  REQUIRE(records[1].substr(9) == "\x10\xac\x02\x2a\x1d" + loss + ndcg);
}

TEST_CASE("a run that goes on voids what came after its checkpoint", "[report]") {
  TemporaryFolder folder;
  const EventFile events(folder.path(), 200);
  const std::vector<std::string> records = records_of(events.path());
  REQUIRE(records.size() == 2);
  REQUIRE(records[1].substr(9) == "\x10\xc9\x01\x3a\x02\x08\x01");
}

// A terminal (or none) and a clock that the test moves.
struct Stage {
  explicit Stage(int width = 0) : columns(width) {}
  int columns;
  double seconds = 100;
  std::string text;
  Progress::Output output() {
    return {.write = [this](std::string_view more) { text += more; },
            .seconds = [this] { return seconds; },
            .columns = [this] { return columns; }};
  }
  std::string taken() { return std::exchange(text, ""); }
};

constexpr char kClear[] = "\r\x1b[K";

TEST_CASE("on a terminal one line is drawn anew", "[report]") {
  Stage stage(200);
  {
    Progress progress(stage.output());
    progress.step({.epoch = 1, .epochs = 2, .step = 1, .steps = 4, .loss = 7.5, .tokens = 1000});
    REQUIRE(stage.taken().empty());
    stage.seconds += 2;
    progress.step({.epoch = 1, .epochs = 2, .step = 2, .steps = 4, .loss = 7.25, .tokens = 1000});
    // Two steps took 2 seconds; 6 are left.
    REQUIRE(stage.taken() ==
            std::string(kClear) + "[##########..........] epoch 1/2  step 2/4  loss 7.2500  1000 tokens/s  0:06 left");
    stage.seconds += 0.05;
    progress.step({.epoch = 1, .epochs = 2, .step = 3, .steps = 4, .loss = 7, .tokens = 1000});
    REQUIRE(stage.taken().empty());
    stage.columns = 30;
    stage.seconds += 1;
    progress.step({.epoch = 1, .epochs = 2, .step = 4, .steps = 4, .loss = 7, .tokens = 1000});
    REQUIRE(stage.taken().size() == std::strlen(kClear) + 29);
    progress.epoch({{"epoch", 1},
                    {"loss", 7.0},
                    {"seconds", 3.05},
                    {"tokens_per_second", 152345.0},
                    {"skipped", 2},
                    {"sequences_per_second", 5.0},
                    {"validation", {{"ndcg@10", 0.12345}}},
                    {"note", "none"}},
                   2);
    REQUIRE(stage.taken() ==
            std::string(kClear) + "epoch 1/2  loss 7.0000  3.0 s  skipped 2  152k tokens/s  ndcg@10 0.1235\n");
    stage.seconds += 1;
    progress.step({.epoch = 2, .epochs = 2, .step = 1, .steps = 4, .loss = 6, .tokens = 2000000});
    REQUIRE_THAT(stage.taken(), Contains("[#####...") && !Contains("\n"));
  }
  REQUIRE(stage.taken() == kClear);
}

TEST_CASE("elsewhere plain lines come now and then", "[report]") {
  Stage stage;
  {
    Progress progress(stage.output());
    for (int step = 1; step <= 100; ++step) {
      stage.seconds += 1;
      progress.step({.epoch = 1, .epochs = 1, .step = step, .steps = 100, .loss = 2, .tokens = 50000});
    }
    const std::string text = stage.taken();
    REQUIRE(std::count(text.begin(), text.end(), '\n') == 3);
    REQUIRE(text.find('\r') == std::string::npos);
    REQUIRE(text.substr(0, text.find('\n')) == "epoch 1/1  step 30/100  loss 2.0000  50k tokens/s  1:10 left");
    progress.epoch({{"epoch", 1}, {"loss", 2.0}}, 1);
    REQUIRE(stage.taken() == "epoch 1/1  loss 2.0000\n");
  }
  REQUIRE(stage.taken().empty());
}

TEST_CASE("times are hours, minutes and seconds", "[report]") {
  REQUIRE(clock_text(0) == "0:00");
  REQUIRE(clock_text(59.6) == "1:00");
  REQUIRE(clock_text(3599) == "59:59");
  REQUIRE(clock_text(90061) == "25:01:01");
  REQUIRE(clock_text(-1) == "0:00");
}

TEST_CASE("log messages go to standard error and take the progress line's place", "[report]") {
  TemporaryFolder folder;
  const auto logger_before = spdlog::default_logger();
  std::string text;
  {
    CaughtStandardError caught(folder.path("caught"));
    set_up_logging("warning");
    spdlog::info("not this");
    Stage stage(80);
    Progress progress(stage.output());
    stage.seconds += 1;
    progress.step({.epoch = 1, .epochs = 1, .step = 1, .steps = 4, .loss = 2, .tokens = 5});
    spdlog::warn("first {}", 1);
    spdlog::warn("second");
    progress.epoch({{"epoch", 1}}, 1);
    REQUIRE_THAT(stage.text, !Contains("\x1b[Kepoch"));
    text = caught.text();
  }
  spdlog::set_default_logger(logger_before);
  REQUIRE(text.size() == std::strlen(kClear) + std::strlen("00:00:00 warning: first 1\n00:00:00 warning: second\n"));
  REQUIRE_THAT(text, Catch::Matchers::StartsWith(kClear) && Contains(" warning: first 1\n") &&
                         Catch::Matchers::EndsWith(" warning: second\n"));
}

TEST_CASE("the log level comes from the call or the environment", "[report]") {
  const auto logger_before = spdlog::default_logger();
  setenv("ITEMLOOM_LOG", "debug", 1);
  set_up_logging();
  REQUIRE(spdlog::default_logger()->level() == spdlog::level::debug);
  set_up_logging("error");
  REQUIRE(spdlog::default_logger()->level() == spdlog::level::err);
  set_up_logging("off");
  REQUIRE(spdlog::default_logger()->level() == spdlog::level::off);
  setenv("ITEMLOOM_LOG", "loud", 1);
  REQUIRE_THROWS_WITH(set_up_logging(), Contains("there is no log level loud; it is one of trace"));
  unsetenv("ITEMLOOM_LOG");
  set_up_logging();
  REQUIRE(spdlog::default_logger()->level() == spdlog::level::info);
  spdlog::set_default_logger(logger_before);
}

}  // namespace
}  // namespace itemloom
