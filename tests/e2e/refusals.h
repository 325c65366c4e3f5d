// What a refusal is: one line that says what is wrong, and every file as it was before.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace itemloom::test {

// Everything below a folder: a file's content by its path, "/" for a folder.
std::map<std::string, std::string> contents(const TemporaryFolder& folder);

// "gone: ", "changed: " and "new: " with the names, since the contents are long.
Words differences(const std::map<std::string, std::string>& before, const std::map<std::string, std::string>& after);

// The line is one of the program's errors and holds all of `says`.
void require_says(const std::string& line, const Words& says);

std::string last_line(const std::string& text);

// Run in the folder, the program says one line that holds all of `says`, prints nothing and changes nothing.
void require_refused(const TemporaryFolder& folder, const Words& arguments, const Words& says, int exit_code = 1);

}  // namespace itemloom::test
