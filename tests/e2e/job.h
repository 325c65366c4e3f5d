// Data, a config, and runs of it by any number of ranks, as a user starts them.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace itemloom::test {

// --set for each of them.
Words settings(const Words& values);

class Job {
 public:
  explicit Job(const std::string& extra = "");

  std::string path(const std::string& name) const { return folder_.path(name); }
  const TemporaryFolder& folder() const { return folder_; }

  // The command that trains into a run.
  Words train(const std::string& run, const Words& more) const;
  std::unique_ptr<Process> start(int ranks, const std::string& run, const Words& more) const;
  // Trains to the end and gives what was learned. Fails the test when the program does not exit with 0.
  std::string trained(int ranks, const std::string& run, const Words& more, const Words& environment = {}) const;
  // What a run has learned (tests/e2e/runs.h), and its epochs.
  std::string learned(const std::string& run) const;
  std::vector<nlohmann::json> metrics(const std::string& run) const;

  // That two runs are equal to rounding, epoch by epoch.
  void require_same_course(const std::string& run, const std::string& other) const;

 private:
  TemporaryFolder folder_;
};

}  // namespace itemloom::test
