// What a finished run has to show.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace itemloom::test {

// What `itemloom` with these arguments prints, one JSON object. Fails the test when it does not exit with 0.
nlohmann::json json_answer(const std::vector<std::string>& arguments);

// The objects of a file with one a line.
std::vector<nlohmann::json> json_lines(const std::string& path);

// What a run has learned: the hash over all of its last checkpoint.
std::string learned(const std::string& run);

// What a dry run's table says in the line that begins with `name`, in MB.
double planned(const std::string& table, const std::string& name);

}  // namespace itemloom::test
