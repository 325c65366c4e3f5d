#include "core/parallel.h"

#include <unistd.h>

#include <atomic>
#include <vector>
#include "tests/support/catch.h"

#include "core/check.h"
#include "core/rank_status.h"
#include "tests/support/kernels.h"

namespace itemloom {

TEST_CASE("every task runs exactly once, for any number of threads", "[parallel]") {
  for (int threads : {1, 2, 3, 5}) {
    test::Threads scope(threads);
    for (int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      parallel_for(count, [&](int64_t task) { runs[static_cast<size_t>(task)]++; });
      for (auto& run : runs) REQUIRE(run == 1);
    }
  }
}

TEST_CASE("the first exception of a task reaches the caller and the pool goes on", "[parallel]") {
  test::Threads scope(3);
  REQUIRE_THROWS_AS(parallel_for(100, [](int64_t task) { CHECK(task != 57, "task ", task); }), Error);
  std::atomic<int> runs{0};
  parallel_for(100, [&](int64_t) { runs++; });
  REQUIRE(runs == 100);
}

TEST_CASE("a long region shows that it gets on", "[parallel]") {
  for (int threads : {1, 3}) {
    test::Threads scope(threads);
    const uint64_t before = heartbeats();
    // Tasks of one region, of which each thread has a hundred.
    parallel_for(100 * threads, [&](int64_t) { usleep(100); });
    REQUIRE(heartbeats() >= before + 10);
  }
}

TEST_CASE("a region inside a task runs on that task's thread, under its thread number", "[parallel]") {
  test::Threads scope(3);
  std::atomic<int> inner{0}, wrong{0};
  parallel_for_with_thread(20, [&](int64_t, int outer) {
    parallel_for_with_thread(10, [&](int64_t, int thread) {
      inner++;
      if (thread != outer) wrong++;
    });
  });
  REQUIRE(inner == 200);
  REQUIRE(wrong == 0);
}

}  // namespace itemloom
