#include "tests/e2e/runs.h"

#include <sstream>

#include "tests/support/catch.h"
#include "tests/support/process.h"

namespace itemloom::test {

nlohmann::json json_answer(const std::vector<std::string>& arguments) {
  const ProcessResult result = itemloom(arguments);
  INFO(result.error);
  REQUIRE(result.exit_code == 0);
  return nlohmann::json::parse(result.out);
}

std::vector<nlohmann::json> json_lines(const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(read_text(path));
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

double planned(const std::string& table, const std::string& name) {
  const size_t line = table.find(name);
  INFO(table);
  REQUIRE(line != std::string::npos);
  return std::stod(table.substr(line + name.size()));
}

std::string learned(const std::string& run) {
  return json_answer({"inspect", run + "/checkpoint-last.h5", "--json"}).at("content_sha256");
}

}  // namespace itemloom::test
