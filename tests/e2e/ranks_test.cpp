// Several ranks from the outside: mpirun, as a user starts it.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/stopwatch.h"
#include "tests/e2e/job.h"
#include "tests/e2e/runs.h"
#include "tests/e2e/small_data.h"
#include "tests/support/catch.h"
#include "tests/support/mpirun.h"

namespace itemloom {
namespace {

using test::has_mpirun;
using test::in_ranks;
using test::Job;
using test::operator+;
using test::settings;
using test::Words;

void wait_until(test::Process& process, const std::function<bool()>& reached) {
  while (process.running() && !reached()) usleep(2000);
}

double seconds_until_end(test::Process& process, test::ProcessResult& result) {
  const auto start = std::chrono::steady_clock::now();
  result = process.wait();
  return seconds_since(start);
}

// Whether a process ends within seconds; one that nobody has waited for yet has ended.
bool ends_soon(pid_t process) {
  for (int turn = 0; turn < 500; ++turn) {
    std::ifstream file("/proc/" + std::to_string(process) + "/stat");
    std::string number, name, state;
    if (!(file >> number >> name >> state) || state == "Z") return true;
    usleep(10000);
  }
  return false;
}

// Lines of the program itself, without those of mpirun.
int own_lines(const std::string& text) {
  int count = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) count += line.rfind("itemloom: ", 0) == 0;
  return count;
}

}  // namespace

TEST_CASE("two and four ranks train as one, the same at every call, and log on the first", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  job.trained(1, "one", {});
  const std::string two = job.trained(2, "two", {});
  REQUIRE(job.trained(2, "again", {}) == two);
  REQUIRE(job.trained(2, "messages", {}, {"ITEMLOOM_TRANSPORT=messages"}) == two);
  REQUIRE(job.trained(2, "sharded", settings({"optimizer.sharded=true"})) == two);
  job.trained(4, "four", settings({"optimizer.sharded=true"}));
  for (const std::string run : {"two", "four"}) job.require_same_course(run, "one");
  REQUIRE(std::filesystem::exists(job.path("four/rank_3.log")));
  REQUIRE_FALSE(std::filesystem::exists(job.path("four/rank_0.log")));
}

TEST_CASE("bits, metrics and checkpoints do not know the number of ranks with gradient shards", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  const Words bitwise = settings({"training.bitwise_across_ranks=true", "training.epochs=6"});
  const Words half = bitwise + settings({"training.epochs=3"});
  const std::string one = job.trained(1, "one", bitwise);
  REQUIRE(job.trained(2, "two", bitwise) == one);
  REQUIRE(job.trained(4, "four", bitwise + settings({"optimizer.sharded=true"})) == one);
  for (const std::string run : {"two", "four"}) {
    for (size_t epoch = 0; epoch < 6; ++epoch) {
      REQUIRE(job.metrics(run)[epoch].at("validation") == job.metrics("one")[epoch].at("validation"));
      REQUIRE(job.metrics(run)[epoch].at("loss") == job.metrics("one")[epoch].at("loss"));
    }
  }
  // One rank begins, four go on, two end.
  job.trained(1, "mixed", half);
  job.trained(4, "mixed", bitwise + settings({"training.epochs=5", "optimizer.sharded=true"}) + Words{"--resume"});
  REQUIRE(job.trained(2, "mixed", bitwise + Words{"--resume"}) == one);
}

TEST_CASE("a run goes on with another number of ranks in the same order", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  job.trained(1, "whole", settings({"training.epochs=6"}));
  job.trained(1, "mixed", settings({"training.epochs=2"}));
  job.trained(3, "mixed", settings({"training.epochs=4", "optimizer.sharded=true"}) + Words{"--resume"});
  job.trained(2, "mixed", settings({"training.epochs=6"}) + Words{"--resume"}, {"ITEMLOOM_TRANSPORT=messages"});
  const auto whole = job.metrics("whole"), mixed = job.metrics("mixed");
  REQUIRE(mixed.size() == 6);
  for (size_t epoch = 0; epoch < 6; ++epoch) {
    REQUIRE(mixed[epoch].at("step") == whole[epoch].at("step"));
    // Another order, other masks or a lost moment would show in the third digit.
    REQUIRE(mixed[epoch].at("loss").get<double>() == Approx(whole[epoch].at("loss").get<double>()).epsilon(1e-4));
  }
}

TEST_CASE("all ranks stop at one step when they are asked to, and go on to the bit", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  const Words epochs = settings({"training.epochs=60"});
  const std::string whole = job.trained(2, "whole", epochs);
  const auto process = job.start(2, "cut", epochs);
  wait_until(*process, [&] { return std::filesystem::exists(job.path("cut/checkpoint-last.h5")); });
  process->signal(SIGUSR1);
  const test::ProcessResult stopped = process->wait();
  INFO(stopped.error);
  REQUIRE(stopped.exit_code == 0);
  REQUIRE(stopped.error.find("stopped, the state is saved") != std::string::npos);
  REQUIRE(job.learned("cut") != whole);
  REQUIRE(job.trained(2, "cut", epochs + Words{"--resume"}) == whole);
}

TEST_CASE("a rank killed at any moment ends all, says where they were, and costs nothing", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  const Words epochs = settings({"training.epochs=60", "training.checkpoint_every=2"});
  const std::string whole = job.trained(2, "whole", epochs);
  for (size_t round = 0; round < 4; ++round) {
    const std::string run = "killed" + std::to_string(round);
    const auto process = job.start(2, run, epochs);
    wait_until(*process, [&] { return std::filesystem::exists(job.path(run) + "/checkpoint-last.h5"); });
    usleep(static_cast<useconds_t>(30000 * round));
    const std::vector<pid_t> ranks = process->children(ITEMLOOM_BINARY);
    REQUIRE(ranks.size() == 2);
    kill(ranks[round % 2], SIGKILL);
    test::ProcessResult result;
    REQUIRE(seconds_until_end(*process, result) < 10);
    INFO(result.error);
    REQUIRE(result.exit_code != 0);
    REQUIRE(result.error.find("rank " + std::to_string(round % 2) + " on ") != std::string::npos);
    REQUIRE(result.error.find(" has died (process ") != std::string::npos);
    REQUIRE(result.error.find("rank 0 was ") != std::string::npos);
    REQUIRE(result.error.find("rank 1 was ") != std::string::npos);
    for (const pid_t rank : ranks) REQUIRE(ends_soon(rank));
    REQUIRE(job.trained(2, run, epochs + Words{"--resume"}) == whole);
  }
}

TEST_CASE("a rank that stands still ends all within the stated time", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  const auto process = job.start(2, "run", settings({"training.epochs=100000", "training.rank_timeout=3"}));
  wait_until(*process, [&] { return std::filesystem::exists(job.path("run/checkpoint-last.h5")); });
  const std::vector<pid_t> ranks = process->children(ITEMLOOM_BINARY);
  REQUIRE(ranks.size() == 2);
  kill(ranks[1], SIGSTOP);
  test::ProcessResult result;
  const double seconds = seconds_until_end(*process, result);
  INFO(result.error);
  REQUIRE(seconds > 2);
  REQUIRE(seconds < 15);
  REQUIRE(result.exit_code != 0);
  REQUIRE(result.error.find("rank 1 on ") != std::string::npos);
  REQUIRE(result.error.find(" has not moved for 3 seconds") != std::string::npos);
  for (const pid_t rank : ranks) REQUIRE(ends_soon(rank));
}

TEST_CASE("a rank that hangs in an evaluation ends all within the time that its run states", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  job.trained(1, "run", settings({"training.rank_timeout=1"}));
  // A second name for it on a file system that does not answer: whoever opens the pipe waits.
  std::filesystem::copy(job.path("run"), job.path("hanging"));
  std::filesystem::remove(job.path("hanging/dataset.h5"));
  REQUIRE(mkfifo(job.path("hanging/dataset.h5").c_str(), 0600) == 0);
  const auto evaluate = [&](const std::string& run) {
    return Words{"-n", "1", ITEMLOOM_BINARY, "evaluate", "--run", job.path(run)};
  };
  test::Process process(Words{"mpirun"} + evaluate("run") + Words{":"} + evaluate("hanging"), "",
                        test::kRankEnvironment);
  test::ProcessResult result;
  REQUIRE(seconds_until_end(process, result) < 15);
  INFO(result.error);
  REQUIRE(result.exit_code != 0);
  REQUIRE(result.error.find("itemloom: rank 1 on ") != std::string::npos);
  REQUIRE(result.error.find(" has not moved for 1 seconds, so this run ends: rank 0 was reading data at ") !=
          std::string::npos);
  REQUIRE(own_lines(result.error) == 1);
}

TEST_CASE("an error of one rank alone is said by it, and where all were by another one", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  for (const Words& environment : {Words{}, Words{"ITEMLOOM_TRANSPORT=messages"}}) {
    const Job job;
    // Rank 0 alone writes there, at the end of an epoch.
    std::filesystem::create_directories(job.path("run/metrics.jsonl"));
    test::Process process(in_ranks(3, job.train("run", {})), "", test::kRankEnvironment + environment);
    test::ProcessResult result;
    REQUIRE(seconds_until_end(process, result) < 20);
    INFO(result.error);
    REQUIRE(result.exit_code != 0);
    REQUIRE(result.error.find("itemloom: rank 0: cannot write " + job.path("run/metrics.jsonl")) != std::string::npos);
    REQUIRE(result.error.find(" has failed, so this run ends: rank 0 was ") != std::string::npos);
    REQUIRE(result.error.find("; rank 2 was ") != std::string::npos);
    REQUIRE(own_lines(result.error) == 2);
  }
}

TEST_CASE("what is wrong on any rank is one line, and all ranks end", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  const auto refusal = [](const Words& command) {
    test::Process process(command, "", test::kRankEnvironment);
    const test::ProcessResult result = process.wait();
    INFO(result.error);
    REQUIRE(result.exit_code == 1);
    REQUIRE(own_lines(result.error) == 1);
    return result.error;
  };
  const auto says = [](const std::string& text, const std::string& part) {
    INFO(text);
    REQUIRE(text.find(part) != std::string::npos);
  };
  const auto run = [&](int ranks, const Words& more) { return in_ranks(ranks, job.train("run", more)); };
  says(refusal(run(3, settings({"training.batch_size=2"}))),
       "itemloom: training.batch_size is 2, but 3 ranks share a batch; take fewer ranks or a larger batch\n");
  says(refusal(run(3, settings({"training.bitwise_across_ranks=true"}))), "not 3\n");
  says(refusal(run(2, settings({"training.batch_syze=2"}))), "batch_size");
  says(refusal(run(2, settings({"data.files=[\"nowhere.txt\"]"}))), "nowhere.txt");
  REQUIRE_FALSE(std::filesystem::exists(job.path("run")));

  // Ranks with other settings, as a launcher with a separate command for each makes them.
  const Words both = Words{"mpirun", "-n", "1"} + job.train("run", {}) + Words{":", "-n", "1"};
  says(refusal(both + job.train("run", settings({"training.seed=2"}))),
       "itemloom: rank 1 has another config than rank 0: training.seed is 1 here and 2 there; give all ranks the same");

  Words wrong_option = both + job.train("run", {});
  std::replace(wrong_option.end() - 2, wrong_option.end(), std::string("--run"), std::string("--runn"));
  const std::string difference = refusal(wrong_option);
  says(difference, "itemloom: give all ranks the same verb and options; rank 0: itemloom train; rank 1: ");
  says(difference, "(itemloom train --help tells more)\n");
  says(refusal(both + Words{ITEMLOOM_BINARY, "evaluate", "--run", job.path("run")}), "rank 1: itemloom evaluate\n");
  says(refusal(both + Words{ITEMLOOM_BINARY, "--help"}), "rank 1: only help or the version\n");

  // And with other data under a name that is good on each host.
  REQUIRE(test::itemloom({"prepare", job.path("config.json"), "--out", job.path("a.h5")}).exit_code == 0);
  test::write_text(job.path("sequences.txt"), test::read_text(job.path("sequences.txt")) + "new i1 i2 i3\n");
  REQUIRE(test::itemloom({"prepare", job.path("config.json"), "--out", job.path("b.h5")}).exit_code == 0);
  const auto prepared = [&](const std::string& name) {
    test::write_text(job.path(name + ".json"), R"({"data": {"files": [")" + name +
                                                   R"(.h5"], "format": "prepared", "max_length": 12},
        "model": {"hidden_size": 16, "heads": 2}})");
    return Words{ITEMLOOM_BINARY, "train", job.path(name + ".json"), "--run", job.path("run")};
  };
  says(refusal(Words{"mpirun", "-n", "1"} + prepared("a") + Words{":", "-n", "1"} + prepared("b")),
       "itemloom: rank 1 has another dataset than rank 0 (SHA-256 ");
  std::filesystem::remove_all(job.path("run"));
  std::filesystem::remove(job.path("b.h5"));
  says(refusal(Words{"mpirun", "-n", "1"} + prepared("a") + Words{":", "-n", "1"} + prepared("b")),
       "itemloom: rank 1: ");

  job.trained(2, "good", {});
  says(refusal(in_ranks(2, job.train("good", {}))), "already holds a run");
  says(refusal(in_ranks(2, job.train("good", settings({"training.seed=3"}) + Words{"--resume"}))),
       "was begun with another config: training.seed is 3 here and 1 there");
  says(refusal({"mpirun", "-n", "2", ITEMLOOM_BINARY, "export", "--run", job.path("good"), "--out", job.path("e.h5")}),
       "itemloom: itemloom export works in one process; start it without mpirun\n");
  test::Process usage({"mpirun", "-n", "2", ITEMLOOM_BINARY, "train", "--runn"}, "", test::kRankEnvironment);
  const test::ProcessResult wrong = usage.wait();
  REQUIRE(wrong.exit_code == 2);
  REQUIRE(own_lines(wrong.error) == 1);
}

TEST_CASE("evaluation by several ranks is that of one, to the last digit", "[e2e][mpi]") {
  if (!has_mpirun()) return;
  const Job job;
  job.trained(2, "run", {});
  const Words evaluate = {ITEMLOOM_BINARY, "evaluate", "--run", job.path("run"), "--json", "--dump-ranks"};
  const auto answer_of = [&](int ranks, const Words& environment) {
    const test::ProcessResult result =
        test::Process(in_ranks(ranks, evaluate), "", test::kRankEnvironment + environment).wait();
    INFO(result.error);
    REQUIRE(result.exit_code == 0);
    // Every target's rank is in the file.
    return result.out + test::read_text(job.path("run/ranks-test.h5"));
  };
  const std::string alone = answer_of(1, {});
  REQUIRE(answer_of(2, {}) == alone);
  REQUIRE(answer_of(3, {}) == alone);
  REQUIRE(answer_of(3, {"ITEMLOOM_TRANSPORT=messages"}) == alone);

  const Words other(evaluate.begin(), evaluate.end() - 1);
  const Words command = Words{"mpirun", "-n", "1"} + evaluate + Words{":", "-n", "1"} + other;
  const test::ProcessResult refused = test::Process(command, "", test::kRankEnvironment).wait();
  REQUIRE(refused.exit_code == 1);
  REQUIRE(
      refused.error.find("itemloom: rank 1 has another --dump-ranks than rank 0 (not given there, given on rank 0); "
                         "give all ranks the same options\n") != std::string::npos);
}

}  // namespace itemloom
