#include "tests/e2e/refusals.h"

#include <algorithm>
#include <filesystem>

#include "tests/support/catch.h"

namespace itemloom::test {

std::map<std::string, std::string> contents(const TemporaryFolder& folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
    found[entry.path().string()] = entry.is_directory() ? "/" : test::read_text(entry.path().string());
  }
  return found;
}

Words differences(const std::map<std::string, std::string>& before, const std::map<std::string, std::string>& after) {
  Words names;
  for (const auto& [name, content] : before) {
    if (after.count(name) == 0) names.push_back("gone: " + name);
    if (after.count(name) == 1 && after.at(name) != content) names.push_back("changed: " + name);
  }
  for (const auto& [name, content] : after) {
    if (before.count(name) == 0) names.push_back("new: " + name);
  }
  return names;
}

void require_says(const std::string& line, const Words& says) {
  INFO(line);
  REQUIRE(line.rfind("itemloom: ", 0) == 0);
  for (const std::string& part : says) {
    INFO("says: " << part);
    REQUIRE(line.find(part) != std::string::npos);
  }
}

void require_refused(const TemporaryFolder& folder, const Words& arguments, const Words& says, int exit_code) {
  std::string command = "itemloom";
  for (const std::string& argument : arguments) command += " " + argument;
  INFO(command);
  const auto before = contents(folder);
  const test::ProcessResult result = itemloom(arguments, folder.path());
  INFO(result.error);
  REQUIRE(result.exit_code == exit_code);
  REQUIRE(result.out.empty());
  REQUIRE(std::count(result.error.begin(), result.error.end(), '\n') == 1);
  require_says(result.error, says);
  REQUIRE(differences(before, contents(folder)) == Words());
}

std::string last_line(const std::string& text) {
  const size_t begin = text.rfind('\n', text.size() - 2);
  return text.substr(begin == std::string::npos ? 0 : begin + 1);
}

}  // namespace itemloom::test
