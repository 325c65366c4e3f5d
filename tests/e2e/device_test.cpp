// The program on a GPU, or on the emulation that stands for one.
#ifdef ITEMLOOM_CUDA

#include <cmath>

#include "tests/e2e/runs.h"
#include "tests/e2e/small_data.h"
#include "tests/support/catch.h"
#include "tests/support/mpirun.h"
#include "tests/support/process.h"

namespace itemloom {
namespace {

using test::Words;

// Memory checks of every access are for the tests of kernels: here all of the program runs.
const Words kFast = {"CUDA_EMULATION_CHECK=0", "CUDA_EMULATION_DEVICES=2"};

class Job {
 public:
  Job() { test::write_small_run(folder_); }

  std::string path(const std::string& name) const { return folder_.path(name); }

  // Trains into the run, by so many ranks.
  void train(const std::string& run, const std::string& device, int ranks = 1, const Words& more = {},
             const Words& settings = {}) const {
    Words command = {ITEMLOOM_BINARY,    "train", path("config.json"), "--run", path(run), "--set",
                     "device=" + device, "--set", "training.threads=1"};
    command.insert(command.end(), more.begin(), more.end());
    Words environment = test::kRankEnvironment;
    environment.insert(environment.end(), kFast.begin(), kFast.end());
    environment.insert(environment.end(), settings.begin(), settings.end());
    const test::ProcessResult result = test::Process(test::in_ranks(ranks, command), "", environment).wait();
    INFO(result.error);
    REQUIRE(result.exit_code == 0);
  }

  // Equal to rounding, epoch by epoch.
  void require_same_course(const std::string& run, const std::string& other) const {
    const auto here = test::json_lines(path(run) + "/metrics.jsonl");
    const auto there = test::json_lines(path(other) + "/metrics.jsonl");
    REQUIRE(here.size() == there.size());
    for (size_t epoch = 0; epoch < here.size(); ++epoch) {
      INFO("epoch " << epoch + 1);
      REQUIRE(here[epoch].at("step") == there[epoch].at("step"));
      REQUIRE(here[epoch].at("loss").get<double>() == Approx(there[epoch].at("loss").get<double>()).epsilon(1e-4));
    }
  }

 private:
  test::TemporaryFolder folder_;
};

const Words kTwoEpochs = {"--set", "training.epochs=2"}, kOneEpoch = {"--set", "training.epochs=1"};

Words resumed(const Words& words) {
  Words all = words;
  all.push_back("--resume");
  return all;
}

}  // namespace

TEST_CASE("a run on a GPU goes the way of one on the CPU, and goes on on the other", "[e2e][device]") {
  const Job job;
  job.train("cpu", "cpu", 1, kTwoEpochs);
  job.train("gpu", "cuda", 1, kTwoEpochs);
  job.require_same_course("gpu", "cpu");
  // Host code that touched the GPU's memory would be killed.
  job.train("again", "cuda", 1, kTwoEpochs, {"CUDA_EMULATION_HOST_PROTECT=1"});
  REQUIRE(test::learned(job.path("again")) == test::learned(job.path("gpu")));

  job.train("moved", "cpu", 1, kOneEpoch);
  job.train("moved", "cuda", 1, resumed(kTwoEpochs));
  job.require_same_course("moved", "cpu");
  job.train("back", "cuda", 1, kOneEpoch);
  job.train("back", "cpu", 1, resumed(kTwoEpochs));
  job.require_same_course("back", "cpu");
}

TEST_CASE("an interrupted run on a GPU goes on to the bit", "[e2e][device]") {
  const Job job;
  job.train("whole", "cuda", 1, kTwoEpochs);
  job.train("halves", "cuda", 1, kOneEpoch);
  job.train("halves", "cuda", 1, resumed(kTwoEpochs));
  REQUIRE(test::learned(job.path("halves")) == test::learned(job.path("whole")));
}

TEST_CASE("ranks with a GPU each train as one does", "[e2e][mpi][device]") {
  if (!test::has_mpirun()) return;
  const Job job;
  job.train("one", "cuda", 1, kTwoEpochs);
  job.train("two", "cuda", 2, kTwoEpochs);
  job.require_same_course("two", "one");
  Words sharded = kTwoEpochs;
  sharded.insert(sharded.end(), {"--set", "optimizer.sharded=true"});
  job.train("sharded", "cuda", 2, sharded);
  job.require_same_course("sharded", "one");
}

TEST_CASE("evaluation on a GPU is that on the CPU", "[e2e][device]") {
  const Job job;
  job.train("run", "cuda", 1, kTwoEpochs);
  const auto cpu = test::json_answer({"evaluate", "--run", job.path("run"), "--device", "cpu", "--json"});
  const auto gpu = test::json_answer({"evaluate", "--run", job.path("run"), "--device", "cuda", "--json"});
  REQUIRE(gpu.at("cases") == cpu.at("cases"));
  for (const auto& [name, value] : cpu.at("metrics").items()) {
    INFO(name);
    REQUIRE(gpu.at("metrics").at(name).get<double>() == Approx(value.get<double>()).margin(0.02));
  }
}

TEST_CASE("more ranks than GPUs are refused before anything is written", "[e2e][mpi][device]") {
  if (!test::has_mpirun()) return;
  const test::TemporaryFolder folder;
  test::write_small_run(folder);
  Words environment = test::kRankEnvironment;
  environment.insert(environment.end(), {"CUDA_EMULATION_DEVICES=1", "CUDA_VISIBLE_DEVICES=0"});
  const test::ProcessResult result =
      test::Process(test::in_ranks(2, {ITEMLOOM_BINARY, "train", folder.path("config.json"), "--run",
                                       folder.path("run"), "--set", "device=cuda"}),
                    "", environment)
          .wait();
  INFO(result.error);
  REQUIRE(result.exit_code == 1);
  REQUIRE(result.error.find("for ranks 0 and 1; start at most one rank a GPU") != std::string::npos);
  REQUIRE_FALSE(std::filesystem::exists(folder.path("run")));
}

}  // namespace itemloom

#endif
