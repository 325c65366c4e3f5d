// train --dry-run, as a person sees it.
#include <filesystem>

#include "tests/e2e/job.h"
#include "tests/e2e/runs.h"
#include "tests/support/catch.h"
#include "tests/support/mpirun.h"
#include "tests/support/process.h"

namespace itemloom {

using test::planned;
using test::Words;
using test::operator+;

TEST_CASE("a dry run tells memory for any device, writes nothing, and shares the optimizer among ranks", "[e2e][mpi]") {
  const test::Job job;
  const auto dry_run = [&](int ranks, const Words& settings) {
    const Words command =
        Words{ITEMLOOM_BINARY, "train", job.path("config.json"), "--dry-run"} + test::settings(settings);
    const test::ProcessResult result =
        test::Process(ranks == 1 ? command : test::in_ranks(ranks, command), "", test::kRankEnvironment).wait();
    INFO(result.error);
    REQUIRE(result.exit_code == 0);
    return result.out;
  };
  const auto files = [&] {
    const std::filesystem::directory_iterator all(job.folder().path()), end;
    return std::distance(all, end);
  };
  const auto before = files();
  const Words large = {"model.hidden_size=256"};
  const std::string cpu = dry_run(1, large), cuda = dry_run(1, large + Words{"device=cuda", "training.precision=bf16"});
  REQUIRE(cpu.find("memory of device cpu on one rank") != std::string::npos);
  REQUIRE(planned(cpu, "workspace ") < 32);
  REQUIRE(planned(cuda, "workspace ") >= 32);
  REQUIRE(planned(cuda, "validation ") > 0);
  REQUIRE(planned(cuda, "parameters ") == Approx(1.5 * planned(cpu, "parameters ")).margin(0.1));
  REQUIRE(planned(cuda, "activations ") < planned(cpu, "activations "));
  if (test::has_mpirun()) {
    const std::string shared = dry_run(2, large + Words{"optimizer.sharded=true"});
    REQUIRE(shared.find("each of 2 ranks") != std::string::npos);
    REQUIRE(planned(shared, "optimizer state ") == Approx(planned(cpu, "optimizer state ") / 2).epsilon(0.1));
  }
  REQUIRE(files() == before);
}

}  // namespace itemloom
