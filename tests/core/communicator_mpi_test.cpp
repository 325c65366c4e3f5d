// Ranks as processes that mpirun starts from this test program: the test that starts them names itself, and is what
// each of them does.
#include "core/communicator_mpi.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/stopwatch.h"
#include "tests/support/catch.h"
#include "tests/support/mpirun.h"

namespace itemloom {
namespace {

using test::operator+;
using test::Words;

// The running test in several ranks.
test::ProcessResult this_test_in_ranks(int ranks, const Words& environment = {}) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  const std::string name = Catch::getResultCapture().getCurrentTestName();
  return test::Process(test::in_ranks(ranks, {program, name}), "", test::kRankEnvironment + environment).wait();
}

// The values of a rank, small integers: their sums are exact.
float value_of(int rank, int64_t place) {
  return static_cast<float>((place * 7 + rank * 13) % 1000);
}

// How many values are wrong after collectives that need several messages of 4 MB.
int64_t faults_of_large_collectives(Communicator& communicator) {
  const int64_t count = 1'200'001, bytes = count * static_cast<int64_t>(sizeof(float));
  const int ranks = communicator.size();
  int64_t faults = 0;
  std::vector<float> mine(static_cast<size_t>(count)), all(static_cast<size_t>(count * ranks));
  for (int64_t place = 0; place < count; ++place) mine[place] = value_of(communicator.rank(), place);
  communicator.all_gather(mine.data(), bytes, all.data());
  for (int rank = 0; rank < ranks; ++rank) {
    for (int64_t place = 0; place < count; ++place) faults += all[rank * count + place] != value_of(rank, place);
  }
  communicator.broadcast(mine.data(), bytes, ranks - 1);
  for (int64_t place = 0; place < count; ++place) faults += mine[place] != value_of(ranks - 1, place);
  return faults;
}

// The same for an exchange buffer of which every share is longer than a message, and what lies outside of the range.
int64_t faults_of_large_exchange(Communicator& communicator) {
  const int64_t count = 4'000'000;
  const FlatRange range{1000, count - 1};
  const int ranks = communicator.size();
  const auto buffer = communicator.make_exchange_buffer(count);
  const Vector<float> values = buffer->values();
  for (int64_t place = 0; place < count; ++place) values[place] = value_of(communicator.rank(), place);
  buffer->all_reduce_sum(range);
  communicator.barrier();
  int64_t faults = 0;
  for (int64_t place = 0; place < count; ++place) {
    float expected = value_of(communicator.rank(), place);
    if (place >= range.begin && place < range.end) {
      expected = 0;
      for (int rank = 0; rank < ranks; ++rank) expected += value_of(rank, place);
    }
    faults += values[place] != expected;
  }
  return faults;
}

}  // namespace

TEST_CASE("what needs several messages arrives whole", "[communicator][mpi]") {
  if (launched_with_ranks()) {
    MpiProcess process;
    REQUIRE(faults_of_large_collectives(process.communicator()) == 0);
    REQUIRE(faults_of_large_exchange(process.communicator()) == 0);
    process.finish();
    return;
  }
  if (!test::has_mpirun()) return;
  for (const Words& environment : {Words{}, Words{"ITEMLOOM_TRANSPORT=messages"}}) {
    const test::ProcessResult result = this_test_in_ranks(3, environment);
    INFO(result.out << result.error);
    REQUIRE(result.exit_code == 0);
  }
}

TEST_CASE("a rank that does not let MPI end is not waited for longer than one may stand still", "[communicator][mpi]") {
  if (launched_with_ranks()) {
    MpiProcess process;
    if (process.communicator().rank() == 1) {
      // What finish() begins with, and no more of it.
      process.communicator().barrier();
      sleep(60);
    }
    process.set_rank_timeout(1);
    process.finish();
    return;
  }
  if (!test::has_mpirun()) return;
  const auto start = std::chrono::steady_clock::now();
  const test::ProcessResult result = this_test_in_ranks(2);
  INFO(result.out << result.error);
  REQUIRE(seconds_since(start) < 20);
  REQUIRE(result.exit_code == 1);
  REQUIRE(result.error.find("itemloom: all ranks have finished, but one of them does not let MPI end\n") !=
          std::string::npos);
}

}  // namespace itemloom
