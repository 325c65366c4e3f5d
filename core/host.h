// The machine that this process runs on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace itemloom {

std::string host_name();

// The numbers of the processors that a process (0: this one) may run on, ascending. Throws Error when there is no such
// process.
std::vector<int> allowed_processors(int process = 0);

// Ascending numbers as people write them, "0-3,8", and back.
std::string to_ranges(const std::vector<int>& numbers);
std::vector<int> from_ranges(const std::string& text);

// In bytes.
struct HostMemory {
  int64_t total, available;
  int64_t limit;  // the lowest that a cgroup of this process sets, where it is less than the total; else 0
};
HostMemory host_memory();

// The lowest memory limit in bytes, or 0, of the cgroups that `membership` (the text of /proc/self/cgroup) names and of
// those around them, with the cgroup file systems (of version 1 or 2) under `root`.
int64_t cgroup_memory_limit(const std::string& membership, const std::string& root);

}  // namespace itemloom
