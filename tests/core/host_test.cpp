#include "core/host.h"

#include <sched.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom {

TEST_CASE("numbers are written as ranges and read back", "[host]") {
  for (const auto& [numbers, text] : std::vector<std::pair<std::vector<int>, std::string>>{
           {{}, ""}, {{5}, "5"}, {{0, 1, 2, 3, 8}, "0-3,8"}, {{0, 2, 3, 64, 65, 66}, "0,2-3,64-66"}}) {
    REQUIRE(to_ranges(numbers) == text);
    REQUIRE(from_ranges(text) == numbers);
  }
}

TEST_CASE("the processors of a process are those it is bound to", "[host]") {
  const std::vector<int> all = allowed_processors();
  REQUIRE(!all.empty());
  REQUIRE(allowed_processors(getpid()) == all);
  cpu_set_t before, one;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  CPU_ZERO(&one);
  CPU_SET(all.back(), &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  const std::vector<int> bound = allowed_processors();
  REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0);
  REQUIRE(bound == std::vector<int>{all.back()});
}

TEST_CASE("the lowest limit of a cgroup and those around it counts", "[host]") {
  const test::TemporaryFolder folder;
  const auto write = [&](const std::string& group, const std::string& file, const std::string& text) {
    std::filesystem::create_directories(folder.path(group));
    test::write_text(folder.path(group + "/" + file), text);
  };
  REQUIRE(cgroup_memory_limit("0::/a/b\n", folder.path()) == 0);
  write("a/b", "memory.max", "max\n");
  REQUIRE(cgroup_memory_limit("0::/a/b\n", folder.path()) == 0);
  write("a", "memory.max", "7000\n");
  REQUIRE(cgroup_memory_limit("0::/a/b\n", folder.path()) == 7000);
  write("a/b", "memory.max", "5000\n");
  REQUIRE(cgroup_memory_limit("0::/a/b\n", folder.path()) == 5000);
  REQUIRE(cgroup_memory_limit("0::/a\n", folder.path()) == 7000);
  // Version 1, in a container whose own group is mounted at the top.
  write("memory", "memory.limit_in_bytes", "3000\n");
  REQUIRE(cgroup_memory_limit("5:cpu,cpuacct:/x\n4:memory:/outside/c\n0::/elsewhere\n", folder.path()) == 3000);
}

TEST_CASE("the host has a name and memory", "[host]") {
  REQUIRE(!host_name().empty());
  const HostMemory memory = host_memory();
  REQUIRE(memory.total > 100'000'000);
  REQUIRE(memory.available > 0);
  REQUIRE(memory.available <= memory.total);
  REQUIRE(memory.limit < memory.total);
}

}  // namespace itemloom
