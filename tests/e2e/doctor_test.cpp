// The program's own look at the machine, alone and in ranks.

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/host.h"
#include "tests/support/catch.h"
#include "tests/support/mpirun.h"

namespace itemloom {
namespace {

using test::ProcessResult;

ProcessResult doctor_in_ranks(int ranks, const test::Words& arguments) {
  test::Words command = {ITEMLOOM_BINARY, "doctor"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return test::Process(test::in_ranks(ranks, command), "", test::kRankEnvironment).wait();
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("doctor looks at one process", "[e2e]") {
  const test::TemporaryFolder folder;
  const ProcessResult result = test::itemloom({"doctor", "--json", "--run", folder.path("runs/a")});
  INFO(result.error);
  REQUIRE(result.exit_code == 0);
  REQUIRE(std::filesystem::is_empty(folder.path()));
  const auto answer = nlohmann::json::parse(result.out);
  REQUIRE(answer.at("transport") == "one process");
  REQUIRE(answer.at("hosts") == 1);
  REQUIRE(answer.at("ranks").size() == 1);
  const auto& rank = answer["ranks"][0];
  REQUIRE(rank.at("host") == host_name());
  REQUIRE(rank.at("processors") == to_ranges(allowed_processors()));
  REQUIRE(rank.at("threads") == allowed_processors().size());
  REQUIRE(rank.at("mpi") == "not started by mpirun");
  REQUIRE(rank.at("memory_available") > 0);
  REQUIRE(answer.at("all_reduce").size() == 2);
  REQUIRE(answer["all_reduce"][1].at("bytes") == 64'000'000);
  REQUIRE(answer["all_reduce"][1].at("memcpy_gigabytes_per_second") > 0.01);
  REQUIRE(!answer["all_reduce"][1].contains("milliseconds"));
  REQUIRE(answer.at("run").at("ranks")[0].at("write_milliseconds") > 0);
  for (const auto& verdict : answer.at("verdicts")) REQUIRE(verdict.at("fatal") == false);

  const ProcessResult text = test::itemloom({"doctor"});
  REQUIRE(text.exit_code == 0);
  REQUIRE(says(text.out, "1 rank on 1 host, transport: one process"));
  REQUIRE(says(text.out, "nothing to all-reduce in one process"));
}

TEST_CASE("doctor looks at two ranks", "[e2e]") {
  if (!test::has_mpirun()) return;
  const test::TemporaryFolder folder;
  const ProcessResult result = doctor_in_ranks(2, {"--json", "--run", folder.path("runs/a")});
  INFO(result.out);
  INFO(result.error);
  REQUIRE(result.exit_code == 0);
  REQUIRE(std::filesystem::is_empty(folder.path()));
  const auto answer = nlohmann::json::parse(result.out);
  REQUIRE(answer.at("transport") == "shared memory");
  REQUIRE(answer.at("hosts") == 1);
  REQUIRE(answer.at("ranks").size() == 2);
  for (const auto& rank : answer["ranks"]) {
    REQUIRE(rank.at("host") == host_name());
    REQUIRE(says(rank.at("mpi"), "MPI"));
    REQUIRE(rank.at("thread_level") != "less");
    REQUIRE(rank.at("host_processors") == allowed_processors().size());
  }
  for (const auto& rate : answer.at("all_reduce")) {
    REQUIRE(rate.at("milliseconds") > 0);
    REQUIRE(rate.at("gigabytes_per_second").get<double>() ==
            Approx(rate.at("bytes").get<double>() / 1e6 / rate.at("milliseconds").get<double>()));
    REQUIRE(rate.at("share_of_memcpy") > 0);
  }
  REQUIRE(answer.at("run").at("ranks").size() == 2);
}

TEST_CASE("doctor says that a run folder cannot be used", "[e2e]") {
  const test::TemporaryFolder folder;
  test::write_text(folder.path("file"), "");
  const std::string run = folder.path("file/run");
  const auto require_refused = [&](const ProcessResult& result) {
    INFO(result.out);
    INFO(result.error);
    REQUIRE(result.exit_code == 1);
    REQUIRE(says(result.out, "PROBLEM: --run cannot be used: cannot create the folder " + run));
    REQUIRE(says(result.error, "itemloom: training would fail: --run cannot be used"));
    REQUIRE(!says(result.out, "no problem found"));
  };
  require_refused(test::itemloom({"doctor", "--run", run}));
  if (test::has_mpirun()) require_refused(doctor_in_ranks(2, {"--run", run}));
  if (geteuid() == 0) return;  // whom no permission stops
  std::filesystem::create_directory(folder.path("locked"));
  REQUIRE(chmod(folder.path("locked").c_str(), 0500) == 0);
  const ProcessResult locked = test::itemloom({"doctor", "--run", folder.path("locked")});
  REQUIRE(locked.exit_code == 1);
  REQUIRE(says(locked.out, "Permission denied"));
}

}  // namespace itemloom
