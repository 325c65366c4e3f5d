#include "tests/e2e/job.h"

#include "tests/e2e/runs.h"
#include "tests/e2e/small_data.h"
#include "tests/support/catch.h"
#include "tests/support/mpirun.h"

namespace itemloom::test {

Words settings(const Words& values) {
  Words words;
  for (const std::string& value : values) words = words + Words{"--set", value};
  return words;
}

Job::Job(const std::string& extra) {
  write_small_run(folder_, extra);
}

Words Job::train(const std::string& run, const Words& more) const {
  return Words{ITEMLOOM_BINARY, "train", path("config.json"), "--run", path(run)} + more;
}

std::unique_ptr<Process> Job::start(int ranks, const std::string& run, const Words& more) const {
  return std::make_unique<Process>(in_ranks(ranks, train(run, more)), "", kRankEnvironment);
}

std::string Job::trained(int ranks, const std::string& run, const Words& more, const Words& environment) const {
  Process process(in_ranks(ranks, train(run, more)), "", kRankEnvironment + environment);
  const ProcessResult result = process.wait();
  INFO(result.error);
  REQUIRE(result.exit_code == 0);
  return learned(run);
}

std::string Job::learned(const std::string& run) const {
  return test::learned(path(run));
}

std::vector<nlohmann::json> Job::metrics(const std::string& run) const {
  return json_lines(path(run) + "/metrics.jsonl");
}

void Job::require_same_course(const std::string& run, const std::string& other) const {
  const auto here = metrics(run), there = metrics(other);
  INFO(run << " against " << other);
  REQUIRE(here.size() == there.size());
  for (size_t epoch = 0; epoch < here.size(); ++epoch) {
    INFO("epoch " << epoch + 1);
    REQUIRE(here[epoch].at("step") == there[epoch].at("step"));
    REQUIRE(here[epoch].at("loss").get<double>() == Approx(there[epoch].at("loss").get<double>()).epsilon(1e-4));
  }
}

}  // namespace itemloom::test
