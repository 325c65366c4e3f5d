// itemloom_bench: kernels and whole steps as ratios to an FMA probe and a memory probe in the same process.

#include <malloc.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/device.h"
#include "core/parallel.h"
#include "scripts/bench/bench.h"

namespace itemloom::bench {
namespace {

struct Options {
  std::string filter;
  int threads = 0;
  double seconds = 90;
  bool json = false;
  bool list = false;
};

struct Ceiling {
  int threads;
  double gflops, gigabytes;
};

// Medians of the probes alone.
Ceiling measure_ceiling(int threads) {
  constexpr int kRounds = 7;
  set_thread_count(threads);
  std::vector<double> fma, triad;
  probe_triad();
  for (int round = 0; round < kRounds; ++round) {
    fma.push_back(probe_fma(2e8 * threads));
    triad.push_back(probe_triad());
  }
  std::sort(fma.begin(), fma.end());
  std::sort(triad.begin(), triad.end());
  return {threads, fma[kRounds / 2] * 1e-9, triad[kRounds / 2] * 1e-9};
}

std::vector<Bench> selected_benches(const std::string& filter) {
  const std::regex pattern(filter);
  std::vector<Bench> selected;
  for (const Bench& bench : registered_benches()) {
    if (std::regex_search(bench.name, pattern)) selected.push_back(bench);
  }
  return selected;
}

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.0f %%", 100 * share);
  return text;
}

void print_row(const Measurement& m) {
  std::printf("%-44s %3d %10.3f %10.3f", m.name.c_str(), m.threads, m.milliseconds, m.best_milliseconds);
  if (m.gflops > 0) {
    std::printf(" %8.1f %6s", m.gflops, percent(m.fma_share).c_str());
  } else {
    std::printf(" %8s %6s", "", "");
  }
  if (m.gigabytes > 0) {
    std::printf(" %8.1f %6s", m.gigabytes, percent(m.triad_share).c_str());
  } else {
    std::printf(" %8s %6s", "", "");
  }
  std::printf(" %4d/%d\n", m.quiet_windows, m.windows);
  std::fflush(stdout);
}

nlohmann::ordered_json to_json(const Measurement& m) {
  nlohmann::ordered_json row{{"name", m.name},
                             {"threads", m.threads},
                             {"milliseconds", m.milliseconds},
                             {"best_milliseconds", m.best_milliseconds},
                             {"windows", m.windows},
                             {"quiet_windows", m.quiet_windows}};
  if (m.gflops > 0) {
    row["gflops"] = m.gflops;
    row["of_fma"] = m.fma_share;
  }
  if (m.gigabytes > 0) {
    row["gigabytes_per_second"] = m.gigabytes;
    row["of_triad"] = m.triad_share;
  }
  return row;
}

void run_benches(const Options& options) {
  const std::vector<Bench> benches = selected_benches(options.filter);
  CHECK(!benches.empty(), "no bench matches '", options.filter, "'; --list shows all names");
  if (options.list) {
    for (const Bench& bench : benches) std::printf("%s\n", bench.name.c_str());
    return;
  }
  std::vector<int> thread_counts{1};
  if (options.threads > 0) {
    thread_counts = {options.threads};
  } else if (thread_count() > 1) {
    thread_counts.push_back(thread_count());
  }
  const double runs = static_cast<double>(benches.size() * thread_counts.size());
  const double seconds_each = std::min(options.seconds / runs, 1.0);

  nlohmann::ordered_json report{{"version", ITEMLOOM_VERSION}, {"kernels", cpu_kernels()}};
  for (int threads : thread_counts) {
    const Ceiling ceiling = measure_ceiling(threads);
    report["probes"].push_back(
        {{"threads", threads}, {"fma_gflops", ceiling.gflops}, {"triad_gigabytes_per_second", ceiling.gigabytes}});
    if (options.json) continue;
    std::printf("%s, %d thread%s: FMA probe %.1f GF/s, triad %.1f GB/s\n", cpu_kernels().c_str(), threads,
                threads == 1 ? "" : "s", ceiling.gflops, ceiling.gigabytes);
  }
  if (!options.json) {
    std::printf("\n%-44s %3s %10s %10s %8s %6s %8s %6s %s\n", "bench", "thr", "ms", "best ms", "GF/s", "of FMA", "GB/s",
                "triad", "quiet windows");
  }
  for (const Bench& bench : benches) {
    for (int threads : thread_counts) {
      const Measurement measurement = measure(bench, threads, seconds_each);
      if (options.json) {
        report["results"].push_back(to_json(measurement));
      } else {
        print_row(measurement);
      }
    }
  }
  if (options.json) std::printf("%s\n", report.dump(2).c_str());
}

}  // namespace
}  // namespace itemloom::bench

int main(int argc, char** argv) {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  itemloom::bench::Options options;
  CLI::App app("Times kernels and steps as ratios to what this machine's processors and memory can do.",
               "itemloom_bench");
  app.add_option("--filter", options.filter, "only benches whose name contains a match of this regular expression");
  app.add_option("--threads", options.threads, "one thread count instead of 1 and all processors")
      ->check(CLI::Range(1, 1024));
  app.add_option("--seconds", options.seconds, "about how long the whole run may take (default 90)")
      ->check(CLI::PositiveNumber);
  app.add_flag("--json", options.json, "one JSON object on standard output");
  app.add_flag("--list", options.list, "only print the names");
  CLI11_PARSE(app, argc, argv);
  try {
    itemloom::select_cpu_kernels();
    itemloom::bench::run_benches(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "itemloom_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
