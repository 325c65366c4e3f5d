// What a run tells while it works: log lines and progress on standard error, and metrics.jsonl.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace itemloom {

// Directs spdlog's default logger to standard error, one plain line a message. The level is `level` (trace, debug,
// info, warning, error, critical, off), or else what ITEMLOOM_LOG says, or else info. Throws Error for another word.
void set_up_logging(const std::string& level = "");

// Directs the default logger to a file, which is begun anew, with the level it has.
void log_to_file(const std::string& path);

// metrics.jsonl: one JSON object a line, on disk when append() returns.
class MetricsLog {
 public:
  // A run that goes on after `epochs_done` epochs keeps the lines whose "epoch" is at most that; a new run (0) keeps
  // none. Lines cut short by a crash go too.
  MetricsLog(const std::string& path, int64_t epochs_done);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void append(const nlohmann::json& line);

 private:
  std::string path_;
  int descriptor_;
};

// Where a run stands after a step.
struct StepProgress {
  int64_t epoch;   // 1-based
  int64_t epochs;  // all of the run
  int64_t step;    // of this epoch, 1-based
  int64_t steps;   // all of this epoch
  double loss;     // mean over the epoch so far
  int64_t tokens;  // worked on in this step
};

// Progress for a person: on a terminal one line that is drawn anew, elsewhere a plain line now and then. Log messages
// and epoch lines take the drawn line's place.
class Progress {
 public:
  // What it needs of the world, so that tests can be it.
  struct Output {
    std::function<void(std::string_view)> write;
    std::function<double()> seconds;  // any clock that only goes forward
    std::function<int()> columns;     // of the terminal; 0: it is none
  };

  // On standard error.
  Progress();
  explicit Progress(Output output);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // After each step; it costs next to nothing when there is nothing to show.
  void step(const StepProgress& progress);

  // After each epoch, with its line of metrics.jsonl: one plain line, everywhere. `epochs` are all of the run.
  void epoch(const nlohmann::json& metrics, int64_t epochs);

 private:
  double seconds_left(const StepProgress& progress, double now) const;

  Output output_;
  double run_start_, epoch_start_, last_shown_;
  int64_t run_steps_ = 0, epoch_tokens_ = 0;
};

// "1:02:03" or "2:03".
std::string clock_text(double seconds);

}  // namespace itemloom
