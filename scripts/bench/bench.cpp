#include "scripts/bench/bench.h"

#include <sys/resource.h>
#include <time.h>

#include <algorithm>

#include "core/parallel.h"

namespace itemloom::bench {
namespace {

// A window is as many runs as take this long (one run if that is longer): long against the clock and the start of a
// parallel region, short enough to fall between two interruptions.
constexpr double kWindowSeconds = 2e-3;
constexpr int kFewestWindows = 5;
constexpr int kMostWindows = 101;

std::vector<void (*)(Suite&)>& lists() {
  static std::vector<void (*)(Suite&)> instance;
  return instance;
}

double seconds_on(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double wall_seconds() {
  return seconds_on(CLOCK_MONOTONIC);
}

double seconds_of(const std::function<void()>& body, int64_t runs) {
  const double begin = now();
  for (int64_t run = 0; run < runs; ++run) body();
  return now() - begin;
}

// How often a thread of this process lost its processor while it had work to do.
int64_t involuntary_switches() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

struct Window {
  double seconds;     // of one run
  double fma, triad;  // the probes around it
  bool quiet;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

template <class Value>
double median_of(const std::vector<Window>& windows, Value value) {
  std::vector<double> values;
  for (const Window& window : windows) values.push_back(value(window));
  return median(values);
}

std::vector<Window> time_windows(const Bench& bench, const std::function<void()>& body, double seconds) {
  body();  // pages, caches, scratch memory
  const double once = seconds_of(body, 1);
  const int64_t runs = std::max<int64_t>(1, static_cast<int64_t>(kWindowSeconds / std::max(once, 1e-7)));
  // The probe runs for about a tenth of the window, at least a quarter of a usual window.
  const double probe_seconds = std::max(0.1 * once * static_cast<double>(runs), kWindowSeconds / 4);
  const double probe_flops = probe_fma(0) * probe_seconds;

  std::vector<Window> windows;
  const double begin = wall_seconds();
  double fma_before = probe_fma(probe_flops), triad_before = bench.bytes > 0 ? probe_triad() : 0;
  while (static_cast<int>(windows.size()) < kMostWindows) {
    if (wall_seconds() - begin > seconds && static_cast<int>(windows.size()) >= kFewestWindows) break;
    if (bench.bytes > 0) body();  // the triad has emptied the caches
    const int64_t switches = involuntary_switches();
    const double time = seconds_of(body, runs) / static_cast<double>(runs);
    const double fma = probe_fma(probe_flops);
    const bool quiet = involuntary_switches() == switches;
    const double triad = bench.bytes > 0 ? probe_triad() : 0;
    windows.push_back({time, (fma_before + fma) / 2, (triad_before + triad) / 2, quiet});
    fma_before = fma;
    triad_before = triad;
  }
  return windows;
}

}  // namespace

Registration::Registration(void (*list)(Suite&)) {
  lists().push_back(list);
}

std::vector<Bench> registered_benches() {
  Suite suite;
  for (auto* list : lists()) list(suite);
  return suite.benches();
}

double now() {
  return thread_count() == 1 ? seconds_on(CLOCK_PROCESS_CPUTIME_ID) : wall_seconds();
}

float* random_floats(Arena& arena, int64_t count, uint32_t seed) {
  float* values = arena.take<float>(count);
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1;
  }
  return values;
}

Measurement measure(const Bench& bench, int threads, double seconds) {
  set_thread_count(threads);
  const std::vector<Window> all = time_windows(bench, bench.prepare(), seconds);
  std::vector<Window> quiet;
  std::copy_if(all.begin(), all.end(), std::back_inserter(quiet), [](const Window& window) { return window.quiet; });
  const std::vector<Window>& used = quiet.size() >= kFewestWindows ? quiet : all;

  const double time = median_of(used, [](const Window& window) { return window.seconds; });
  const double best = std::min_element(used.begin(), used.end(), [](const Window& a, const Window& b) {
                        return a.seconds < b.seconds;
                      })->seconds;
  return {.name = bench.name,
          .threads = threads,
          .milliseconds = time * 1e3,
          .best_milliseconds = best * 1e3,
          .gflops = bench.flops / time * 1e-9,
          .fma_share = median_of(used, [&](const Window& w) { return bench.flops / w.seconds / w.fma; }),
          .gigabytes = bench.bytes / time * 1e-9,
          .triad_share =
              bench.bytes > 0 ? median_of(used, [&](const Window& w) { return bench.bytes / w.seconds / w.triad; }) : 0,
          .windows = static_cast<int>(all.size()),
          .quiet_windows = static_cast<int>(quiet.size())};
}

}  // namespace itemloom::bench
