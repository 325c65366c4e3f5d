#include "train/report.h"

#include <fcntl.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/check.h"
#include "core/files.h"

namespace itemloom {
namespace {

constexpr double kSecondsBetweenDrawings = 0.1;
constexpr double kSecondsBetweenPlainLines = 30;
constexpr int kBarCells = 20;
constexpr std::string_view kClearLine = "\r\x1b[K";

// Whether a progress line stands on the terminal, for whoever writes there next.
std::atomic<bool> line_drawn = false;

// Standard error is where everything goes; when nobody takes it, there is nobody to tell.
void write_to_standard_error(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDERR_FILENO, text.data(), text.size());
    if (count < 0 && errno != EINTR) return;
    text.remove_prefix(static_cast<size_t>(std::max<ssize_t>(count, 0)));
  }
}

// Log messages, each in the place of the progress line if there is one.
class StandardErrorSink : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    if (line_drawn.exchange(false)) write_to_standard_error(kClearLine);
    write_to_standard_error(std::string_view(line.data(), line.size()));
  }
  void flush_() override {}
};

int terminal_columns() {
  if (!isatty(STDERR_FILENO)) return 0;
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[200];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

// "152k", "1.52M": three digits are what a rate is worth.
std::string short_number(double value) {
  if (value >= 999.5e3) return formatted("%.2fM", value / 1e6);
  if (value >= 9995) return formatted("%.0fk", value / 1e3);
  return formatted("%.0f", value);
}

std::string bar(double share) {
  const int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarCells);
  return join_message('[', std::string(filled, '#'), std::string(kBarCells - filled, '.'), ']');
}

// Numbers with the names they have in metrics.jsonl, those inside of objects too.
void append_metrics(std::string& line, const nlohmann::json& metrics) {
  for (const auto& [name, value] : metrics.items()) {
    if (name == "validation") append_metrics(line, value);
    if (!value.is_number() || name == "epoch" || name == "sequences_per_second") continue;
    if (name == "seconds") {
      line += formatted("  %.1f s", value.get<double>());
    } else if (name == "tokens_per_second") {
      line += join_message("  ", short_number(value.get<double>()), " tokens/s");
    } else if (value.is_number_integer()) {
      line += join_message("  ", name, " ", value.get<int64_t>());
    } else {
      line += join_message("  ", name, formatted(" %.4f", value.get<double>()));
    }
  }
}

// The lines of a log that still hold after a stop: whole, readable, and of epochs that are done.
std::string lines_up_to(const std::string& text, int64_t epochs_done) {
  std::string kept;
  size_t begin = 0;
  for (size_t end = text.find('\n'); end != std::string::npos; begin = end + 1, end = text.find('\n', begin)) {
    const auto line = nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                            text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    const bool holds = line.is_object() && line.contains("epoch") && line["epoch"].is_number_integer() &&
                       line["epoch"].get<int64_t>() <= epochs_done;
    if (holds) kept.append(text, begin, end + 1 - begin);
  }
  return kept;
}

}  // namespace

void set_up_logging(const std::string& level) {
  const char* environment = std::getenv("ITEMLOOM_LOG");
  const std::string from_environment = environment == nullptr ? "" : environment;
  const std::string word = !level.empty() ? level : !from_environment.empty() ? from_environment : "info";
  const spdlog::level::level_enum chosen = spdlog::level::from_str(word);
  CHECK(chosen != spdlog::level::off || word == "off", "there is no log level ", word,
        "; it is one of trace, debug, info, warning, error, critical, off");
  auto logger = std::make_shared<spdlog::logger>("itemloom", std::make_shared<StandardErrorSink>());
  logger->set_level(chosen);
  logger->set_pattern("%H:%M:%S %l: %v");
  spdlog::set_default_logger(std::move(logger));
}

void log_to_file(const std::string& path) {
  auto logger = std::make_shared<spdlog::logger>(
      "itemloom", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, /*truncate=*/true));
  logger->set_level(spdlog::default_logger()->level());
  logger->set_pattern("%H:%M:%S %l: %v");
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

MetricsLog::MetricsLog(const std::string& path, int64_t epochs_done) : path_(path) {
  const bool goes_on = epochs_done > 0 && std::filesystem::exists(path);
  write_whole_file(path, goes_on ? lines_up_to(read_whole_file(path), epochs_done) : "");
  descriptor_ = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  CHECK(descriptor_ >= 0, "cannot write ", path, ": ", std::generic_category().message(errno));
}

MetricsLog::~MetricsLog() {
  close(descriptor_);
}

void MetricsLog::append(const nlohmann::json& line) {
  const std::string text = line.dump() + "\n";
  const ssize_t written = ::write(descriptor_, text.data(), text.size());
  CHECK(written == static_cast<ssize_t>(text.size()), "cannot write ", path_, ": ",
        written < 0 ? std::generic_category().message(errno) : "No space left on device");
  fdatasync(descriptor_);
}

Progress::Progress()
    : Progress(Output{.write = write_to_standard_error, .seconds = steady_seconds, .columns = terminal_columns}) {}

Progress::Progress(Output output)
    : output_(std::move(output)), run_start_(output_.seconds()), epoch_start_(run_start_), last_shown_(run_start_) {}

Progress::~Progress() {
  if (line_drawn.exchange(false)) output_.write(kClearLine);
}

// From the time that the steps of this run have taken, validations and checkpoints between them included.
double Progress::seconds_left(const StepProgress& progress, double now) const {
  const int64_t steps_left = (progress.epochs - progress.epoch) * progress.steps + progress.steps - progress.step;
  return (now - run_start_) / static_cast<double>(run_steps_) * static_cast<double>(steps_left);
}

void Progress::step(const StepProgress& progress) {
  ++run_steps_;
  epoch_tokens_ += progress.tokens;
  const double now = output_.seconds();
  if (now - last_shown_ < kSecondsBetweenDrawings) return;
  const int columns = output_.columns();
  if (columns == 0 && now - last_shown_ < kSecondsBetweenPlainLines) return;
  last_shown_ = now;
  const double tokens_per_second = static_cast<double>(epoch_tokens_) / std::max(now - epoch_start_, 1e-9);
  const std::string text =
      join_message("epoch ", progress.epoch, "/", progress.epochs, "  step ", progress.step, "/", progress.steps,
                   formatted("  loss %.4f  ", progress.loss), short_number(tokens_per_second), " tokens/s  ",
                   clock_text(seconds_left(progress, now)), " left");
  if (columns == 0) {
    output_.write(text + "\n");
    return;
  }
  const double share = static_cast<double>(progress.step) / static_cast<double>(std::max<int64_t>(progress.steps, 1));
  // A line as wide as the terminal would wrap, and could not be taken back.
  const std::string line = join_message(bar(share), " ", text).substr(0, static_cast<size_t>(columns - 1));
  output_.write(std::string(kClearLine) + line);
  line_drawn = true;
}

void Progress::epoch(const nlohmann::json& metrics, int64_t epochs) {
  std::string line = line_drawn.exchange(false) ? std::string(kClearLine) : "";
  line += join_message("epoch ", metrics.at("epoch").get<int64_t>(), "/", epochs);
  append_metrics(line, metrics);
  output_.write(line + "\n");
  epoch_start_ = last_shown_ = output_.seconds();
  epoch_tokens_ = 0;
}

std::string clock_text(double seconds) {
  const int64_t whole = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
  const long long hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  return hours > 0 ? formatted("%lld:%02lld:%02lld", hours, minutes, rest) : formatted("%lld:%02lld", minutes, rest);
}

}  // namespace itemloom
