#include "core/host.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/check.h"
#include "core/files.h"

namespace itemloom {
namespace {

// A file of the kernel's that holds one number; anything else ("max") is no limit.
void take_limit(const std::string& path, int64_t& lowest) {
  int64_t limit = 0;
  if (!(std::ifstream(path) >> limit) || limit <= 0) return;
  lowest = lowest == 0 ? limit : std::min(lowest, limit);
}

// In a container the membership may name folders that are mounted elsewhere: those that do not exist are passed over.
void take_limits(const std::string& mount, const std::string& group, const std::string& file, int64_t& lowest) {
  for (std::filesystem::path path = group; path.has_relative_path(); path = path.parent_path()) {
    take_limit(mount + path.string() + "/" + file, lowest);
  }
  take_limit(mount + "/" + file, lowest);
}

}  // namespace

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

std::vector<int> allowed_processors(int process) {
  cpu_set_t set;
  CHECK(sched_getaffinity(process, sizeof set, &set) == 0, "sched_getaffinity: ", std::strerror(errno));
  std::vector<int> processors;
  for (int number = 0; number < CPU_SETSIZE; ++number) {
    if (CPU_ISSET(number, &set)) processors.push_back(number);
  }
  return processors;
}

std::string to_ranges(const std::vector<int>& numbers) {
  std::string text;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[first]);
    if (last > first) text += "-" + std::to_string(numbers[last]);
    first = last + 1;
  }
  return text;
}

std::vector<int> from_ranges(const std::string& text) {
  std::vector<int> numbers;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t dash = part.find('-');
    const int first = std::stoi(part), last = dash == std::string::npos ? first : std::stoi(part.substr(dash + 1));
    for (int number = first; number <= last; ++number) numbers.push_back(number);
  }
  return numbers;
}

int64_t cgroup_memory_limit(const std::string& membership, const std::string& root) {
  int64_t lowest = 0;
  std::istringstream lines(membership);
  // NUMBER:CONTROLLERS:GROUP; version 2 has no controllers there.
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") take_limits(root, group, "memory.max", lowest);
    if (controllers.find(",memory,") != std::string::npos) {
      take_limits(root + "/memory", group, "memory.limit_in_bytes", lowest);
    }
  }
  return lowest;
}

HostMemory host_memory() {
  HostMemory memory{};
  std::ifstream lines("/proc/meminfo");
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t kibibytes = 0;
    words >> name >> kibibytes;
    if (name == "MemTotal:") memory.total = kibibytes * 1024;
    if (name == "MemAvailable:") memory.available = kibibytes * 1024;
  }
  const int64_t limit = cgroup_memory_limit(read_whole_file("/proc/self/cgroup"), "/sys/fs/cgroup");
  if (limit < memory.total) memory.limit = limit;
  return memory;
}

}  // namespace itemloom
