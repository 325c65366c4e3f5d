// Benchmarks as ratios to what the machine can do: every window of a bench is timed between two windows of a probe in
// the same process, so that figures from a busy or a different machine can still be compared. With one thread, time is
// the processor time of the process, which others cannot stretch; with more it is time on the wall.
//
// To add benches, make a file scripts/bench/NAME_bench.cpp (CMake finds it) that holds a function and one line:
//
//   void list_benches(Suite& suite) {
//     suite.add({.name = "softmax/rows/12800x64", .flops = 0, .bytes = 2.0 * 12800 * 64 * sizeof(float), .prepare = []
//     {
//       auto state = std::make_shared<State>(12800, 64);      // memory is taken here, once
//       return [state] { run(state->device, Softmax{...}); };  // this is timed
//     }});
//   }
//   const Registration kRegistration(list_benches);
//
// Work per run is what the task needs (an n x m x k product is 2nmk FLOPs; every input read once, every output written
// once, read too where it is added into), not what an implementation happens to do. A bench declares flops, bytes or
// both and is shown as a ratio to the FMA probe, the triad probe or both.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/arena.h"

namespace itemloom::bench {

// What one bench does; `prepare` is called at a thread count that is already set, and its result is called many times.
struct Bench {
  std::string name;  // family/kind/shape, for --filter
  double flops = 0;  // per run
  double bytes = 0;  // per run
  std::function<std::function<void()>()> prepare;
};

class Suite {
 public:
  void add(Bench bench) { benches_.push_back(std::move(bench)); }
  const std::vector<Bench>& benches() const { return benches_; }

 private:
  std::vector<Bench> benches_;
};

// Makes a file's benches known before main starts.
struct Registration {
  explicit Registration(void (*list)(Suite&));
};
std::vector<Bench> registered_benches();

// `count` values in [-1, 1) in memory of the kind that a training step's tensors have.
float* random_floats(Arena& arena, int64_t count, uint32_t seed);

// Seconds since some point in the past, of the kind that the thread count calls for (see the top).
double now();

// Runs about `flops` of independent fused multiply-adds on all threads, in vectors of the instruction set in use, and
// returns FLOP/s.
double probe_fma(double flops);
// One pass of a[i] = b[i] + s c[i] over arrays far larger than the caches on all threads; returns bytes/s, counting 12
// bytes an element.
double probe_triad();

// Medians over the windows of one bench at one thread count.
struct Measurement {
  std::string name;
  int threads;
  double milliseconds, best_milliseconds;
  double gflops, fma_share;       // 0 when the bench declares no flops
  double gigabytes, triad_share;  // 0 when the bench declares no bytes
  int windows, quiet_windows;     // quiet: no thread lost its processor to another process; used alone if they suffice
};
Measurement measure(const Bench& bench, int threads, double seconds);

}  // namespace itemloom::bench
