#include "tests/support/mpirun.h"

#include "tests/support/catch.h"

namespace itemloom::test {

// Open MPI leaks at its end, some of it from plug-ins that are unloaded by then and cannot be named in a suppression.
const Words kRankEnvironment = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                "OMPI_MCA_rmaps_base_oversubscribe=1", "ASAN_OPTIONS=detect_leaks=0"};

bool has_mpirun() {
  static const bool found = Process({"mpirun", "--version"}).wait().exit_code == 0;
  if (!found) WARN("skipped: mpirun is not installed");
  return found;
}

Words in_ranks(int ranks, const Words& command) {
  if (ranks == 1) return command;
  Words words = {"mpirun", "-n", std::to_string(ranks)};
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

}  // namespace itemloom::test
