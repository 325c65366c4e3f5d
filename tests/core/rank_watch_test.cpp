// The watch over ranks that are processes, without MPI.
#include "core/rank_watch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <new>

#include "core/check.h"
#include "core/files.h"
#include "core/stopwatch.h"
#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

constexpr auto kNoNews = [](bool) {};

void rest(double seconds) {
  usleep(static_cast<useconds_t>(1e6 * seconds));
}

// Ranks of one host. Those that are started are children of the test; the others never show themselves.
class Host {
 public:
  explicit Host(int ranks) : size_(ranks), started_(static_cast<size_t>(ranks), 0) {
    const size_t bytes = sizeof(RankStatus) * static_cast<size_t>(ranks);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "no memory can be shared");
    statuses_ = static_cast<RankStatus*>(memory);
    for (int rank = 0; rank < ranks; ++rank) new (statuses_ + rank) RankStatus;
  }
  ~Host() { munmap(statuses_, sizeof(RankStatus) * static_cast<size_t>(size_)); }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  RankStatus& status(int rank) { return statuses_[rank]; }
  std::string path(const std::string& name) const { return folder_.path(name); }

  // A rank that does `body` and ends in order.
  void start(int rank, double timeout, const std::function<void()>& body,
             const std::function<void(bool)>& refresh = kNoNews) {
    const pid_t child = fork();
    CHECK(child >= 0, "no process can be made");
    if (child > 0) {
      started_[static_cast<size_t>(rank)] = child;
      return;
    }
    dup2(open(said(rank).c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
    std::vector<WatchedRank> ranks;
    for (int other = 0; other < size_; ++other) ranks.push_back({statuses_ + other, "host", true});
    RankWatch watch(rank, ranks, refresh);
    watch.set_timeout(timeout);
    body();
    status(rank).end.store(RankEnd::kFinished);
    _exit(0);
  }

  // The exit code of a rank, waited for.
  int exit_code(int rank) const {
    int code = 0;
    waitpid(started_[static_cast<size_t>(rank)], &code, 0);
    return WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code);
  }

  // What all ranks have said.
  std::string lines() const {
    std::string all;
    for (int rank = 0; rank < size_; ++rank) {
      if (started_[static_cast<size_t>(rank)] != 0) all += test::read_text(said(rank));
    }
    return all;
  }

 private:
  std::string said(int rank) const { return path("said-" + std::to_string(rank)); }

  int size_;
  RankStatus* statuses_;
  std::vector<pid_t> started_;
  test::TemporaryFolder folder_;
};

int64_t line_count(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void stand_still() {
  rest(30);
}

}  // namespace

TEST_CASE("ranks that wait for a long read of another one are not taken for stuck", "[rank_watch]") {
  Host host(2);
  const std::string slow = host.path("slow");
  REQUIRE(mkfifo(slow.c_str(), 0600) == 0);
  host.start(0, 1, [&] {
    sha256_of_file(slow);
    host.status(0).step.store(1);
  });
  host.start(1, 1, [&] {
    while (host.status(0).step.load() == 0) rest(0.01);
  });
  // Fed for three times as long as a rank may stand still.
  {
    std::ofstream file(slow);
    for (int turn = 0; turn < 30; ++turn, rest(0.1)) file << "piece " << turn << std::flush;
  }
  const int first = host.exit_code(0), second = host.exit_code(1);
  INFO(host.lines());
  REQUIRE(first == 0);
  REQUIRE(second == 0);
}

TEST_CASE("a standstill is said once, though the ranks' clocks differ", "[rank_watch]") {
  Host host(3);
  host.status(1).collectives.store(7);
  host.status(2).collectives.store(8);
  host.status(0).collectives.store(8);
  for (int rank = 0; rank < 3; ++rank, rest(0.3)) host.start(rank, 0.6, stand_still);
  for (int rank = 0; rank < 3; ++rank) REQUIRE(host.exit_code(rank) == 1);
  INFO(host.lines());
  REQUIRE(line_count(host.lines()) == 1);
  REQUIRE(holds(host.lines(), "itemloom: rank 1 on host has not moved for 0 seconds, so this run ends: rank 0 was "));
}

TEST_CASE("where a rank was when it failed is said by another one", "[rank_watch]") {
  Host host(2);
  host.start(1, 60, [&] {
    host.status(1).enter(RankPhase::kValidating);
    host.status(1).step.store(12);
    host.status(1).end.store(RankEnd::kFailed);
    // Stuck on its way out.
    stand_still();
  });
  host.start(0, 60, stand_still);
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(host.exit_code(0) == 1);
  REQUIRE(host.exit_code(1) == 1);
  REQUIRE(seconds_since(start) < 20);
  REQUIRE(host.lines() ==
          "itemloom: rank 1 on host has failed, so this run ends: rank 0 was starting at step 0, collective 0; rank 1 "
          "was validating at step 12, collective 0\n");
}

TEST_CASE("the rank that a run ends for is shown, however many there are", "[rank_watch]") {
  Host host(64);
  host.status(40).step.store(5);
  host.status(40).end.store(RankEnd::kFailed);
  host.start(0, 60, stand_still);
  REQUIRE(host.exit_code(0) == 1);
  INFO(host.lines());
  REQUIRE(holds(host.lines(), "rank 15 was "));
  REQUIRE_FALSE(holds(host.lines(), "rank 16 was "));
  REQUIRE(holds(host.lines(), "rank 40 was starting at step 5, collective 0; and 47 more\n"));
}

TEST_CASE("a rank that cannot watch says so and ends", "[rank_watch]") {
  Host host(1);
  host.start(0, 60, stand_still, [](bool) { fail("no news from afar"); });
  REQUIRE(host.exit_code(0) == 1);
  INFO(host.lines());
  REQUIRE(holds(host.lines(), "itemloom: rank 0 on host cannot watch the others: no news from afar, so this run ends"));
}

}  // namespace itemloom
